package metering_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"trafficgpt"
	"trafficgpt-examples/internal/capture"
	"trafficgpt-examples/internal/metering"
)

// The meter makes the flows that the library's own table makes, of every capture and with long and short timeouts.
func TestFlowsAreThoseOfTheTable(t *testing.T) {
	root, err := trafficgpt.NewContext(trafficgpt.Settings{"engine": "native"})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	classifier, err := root.OpenClassifier("../../../models/protocols.tgpt")
	if err != nil {
		t.Fatal(err)
	}
	defer classifier.Close()
	paths, _ := filepath.Glob("../../../captures/*.pcap.gz")
	if len(paths) < 20 {
		t.Fatalf("%d captures", len(paths))
	}
	for _, path := range paths {
		for _, seconds := range [][2]int{{60, 60}, {3, 11}} {
			flows, err := classifier.NewFlows(trafficgpt.Settings{"flows.counts": "8", "flows.confidence": "1",
				"flows.idle_timeout": fmt.Sprint(seconds[0]), "flows.active_timeout": fmt.Sprint(seconds[1])})
			if err != nil {
				t.Fatal(err)
			}
			compare(t, fmt.Sprint(filepath.Base(path), " ", seconds), path, flows, metering.Options{Packets: 8, MaxFlows: 100_000,
				Idle: time.Duration(seconds[0]) * time.Second, Active: time.Duration(seconds[1]) * time.Second})
			flows.Close()
		}
	}
}

func compare(t *testing.T, name, path string, flows *trafficgpt.Flows, options metering.Options) {
	t.Helper()
	source, err := capture.Open("", path)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	count := map[string]int{}
	add := func(n int, parts ...any) { count[fmt.Sprint(parts...)] += n }
	meter := metering.New(options, source.LinkType, func(f *metering.Flow) {
		add(1, f.Client, f.Server, " ", f.ClientPort, " ", f.ServerPort, " ", f.Protocol, " ", f.StartNS, " ", len(f.Packets))
	})
	poll := func() {
		for v, err := range flows.Verdicts(context.Background(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			add(-1, v.ClientAddr, v.ServerAddr, " ", v.ClientPort, " ", v.ServerPort, " ", v.Protocol, " ", v.StartNS, " ", v.Read)
		}
	}
	var burst capture.Burst
	for err = nil; err == nil; err = source.Next(context.Background(), &burst) {
		frame := 0
		for _, info := range burst.Infos {
			meter.Push(burst.Bytes[frame:frame+int(info.Captured)], info)
			frame += int(info.Captured)
			meter.Sweep(info.TimeNS)
		}
		if err := flows.PushFrames(source.LinkType, burst.Bytes, burst.Infos); err != nil {
			t.Fatal(err)
		}
		poll()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	meter.Flush()
	if err := flows.Flush(); err != nil {
		t.Fatal(err)
	}
	poll()
	if meter.Stats.Ready == 0 {
		t.Errorf("%s: no flow", name)
	}
	for flow, n := range count {
		if n != 0 {
			t.Errorf("%s: %+d of %s", name, n, flow)
		}
	}
}

// A flood of new flows takes no more memory than was said.
func TestAFullMeterRefuses(t *testing.T) {
	ready := 0
	meter := metering.New(metering.Options{Packets: 4, MaxFlows: 100, Idle: time.Second, Active: time.Minute},
		trafficgpt.LinkEthernet, func(*metering.Flow) { ready++ })
	frame := make([]byte, 60)
	copy(frame[12:], []byte{8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x20, 0, 0, 53, 0, 26})
	for i := range 1000 {
		frame[34], frame[35] = byte(i>>8), byte(i)
		info := trafficgpt.FrameInfo{TimeNS: 1e9 + uint64(i), Captured: 60, Length: 60}
		meter.Push(frame, info)
		meter.Push(frame, info)
	}
	if s := meter.Stats; s.Flows != 100 || s.Refused != 1800 || ready != 0 {
		t.Errorf("%+v, %d ready", s, ready)
	}
	meter.Sweep(3e9)
	if ready != 100 {
		t.Errorf("%d ready", ready)
	}
	for _, damaged := range [][]byte{nil, frame[:13], frame[:20], frame[:36], make([]byte, 60)} {
		meter.Push(damaged, trafficgpt.FrameInfo{TimeNS: 4e9, Captured: uint32(len(damaged)), Length: 60})
	}
}
