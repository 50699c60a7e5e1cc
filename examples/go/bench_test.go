package examples_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"trafficgpt-examples/internal/capture"
	"trafficgpt-examples/internal/exchange"
	"trafficgpt-examples/internal/metering"
)

// What metering costs in Go, per packet: the mixed capture again and again, each time later.
func BenchmarkMeter(b *testing.B) {
	source, err := capture.Open("", mixed)
	if err != nil {
		b.Fatal(err)
	}
	defer source.Close()
	var all, burst capture.Burst
	for err = nil; err == nil; err = source.Next(context.Background(), &burst) {
		all.Bytes, all.Infos = append(all.Bytes, burst.Bytes...), append(all.Infos, burst.Infos...)
	}
	if !errors.Is(err, io.EOF) {
		b.Fatal(err)
	}
	last := all.Infos[len(all.Infos)-1].TimeNS
	options := metering.Options{Packets: 32, MaxFlows: 1 << 20, Idle: time.Minute, Active: time.Minute}
	meter := metering.New(options, source.LinkType, func(*metering.Flow) {})
	packets, begin, later := 0, 0, uint64(0)
	for b.Loop() {
		info := all.Infos[packets%len(all.Infos)]
		if packets%len(all.Infos) == 0 {
			begin = 0
			later += last - info.TimeNS + uint64(2*time.Minute)
		}
		frame := all.Bytes[begin : begin+int(info.Captured)]
		begin += int(info.Captured)
		info.TimeNS += later
		meter.Push(frame, info)
		if packets++; packets%512 == 0 {
			meter.Sweep(info.TimeNS)
		}
	}
}

// What storing a batch of 64 flows of 32 packets costs, and its answer: one after another, as one meter or worker does.
func BenchmarkExchange(b *testing.B) {
	url := natsServer(b)
	ctx := context.Background()
	x, err := exchange.Connect(ctx, url, "bench")
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close()
	batch := make([]byte, 64*(64+8*32))
	lines := make([]byte, 64*330)
	for name, call := range map[string]func(i int) error{
		"send":   func(i int) error { return x.Send(ctx, i%8, fmt.Sprint("b-", i), batch, complain(b)) },
		"answer": func(i int) error { _, err := x.Answer(ctx, i%8, fmt.Sprint("b-", i), lines); return err },
	} {
		b.Run(name, func(b *testing.B) {
			i := 0
			for b.Loop() {
				if err := call(i); err != nil {
					b.Fatal(err)
				}
				i++
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/64, "us/flow")
		})
	}
}
