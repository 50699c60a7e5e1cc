// Command scatter meters the packets of an interface or a capture into flows, and hands these over to workers through NATS
// JetStream, by shards: see docs/scaling.md.
//
//	sudo ./scatter -i eth0 -nats nats://localhost:4222
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"trafficgpt"
	"trafficgpt-examples/internal/capture"
	"trafficgpt-examples/internal/exchange"
	"trafficgpt-examples/internal/metering"
)

type options struct {
	device, nats  string
	shards, batch int
	metering      metering.Options
}

func main() {
	var o options
	flag.StringVar(&o.device, "i", "", "listen on this `interface`, instead of reading a capture")
	flag.StringVar(&o.nats, "nats", "nats://localhost:4222", "the NATS server, as `URL`")
	flag.IntVar(&o.shards, "shards", 8, "number of shards, the same for all meters and workers")
	flag.IntVar(&o.batch, "batch", 64, "flows of a batch, at most; up to 512")
	flag.IntVar(&o.metering.Packets, "packets", 32, "packets of a flow that are classified, at most")
	flag.IntVar(&o.metering.MaxFlows, "max-flows", 1<<20, "flows tracked at once")
	flag.DurationVar(&o.metering.Idle, "idle", time.Minute, "time without a packet after which a flow has ended")
	flag.DurationVar(&o.metering.Active, "active", time.Minute, "time after its first packet at which a flow is ended")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: scatter [OPTION]... (-i INTERFACE | CAPTURE)")
		flag.PrintDefaults()
	}
	flag.Parse()
	if (o.device == "") == (flag.NArg() == 0) || flag.NArg() > 1 || o.shards < 1 || o.batch < 1 || o.batch > 512 || o.metering.Packets < 2 ||
		o.metering.Packets > 126 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "scatter:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, o options, path string) error {
	source, err := capture.Open(o.device, path)
	if err != nil {
		return err
	}
	defer source.Close()
	x, err := exchange.Connect(ctx, o.nats, "trafficgpt scatter")
	if err != nil {
		return err
	}
	defer x.Close()
	s := &sender{x: x, options: o, shards: make([]shard, o.shards), name: name()}
	meter := metering.New(o.metering, source.LinkType, s.take)
	// What was metered is stored also after Ctrl-C, if that takes no longer than this.
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(30*time.Second, cancel) })
	if err := follow(ctx, sending, source, meter, s); err != nil {
		return err
	}
	meter.Flush()
	if err := s.sendAll(sending); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "scatter: %d packets, %d dropped, %d skipped, %d flows, %d refused, %d too short, %d sent in %d batches\n",
		meter.Stats.Packets, source.Dropped(), meter.Stats.Skipped, meter.Stats.Flows, meter.Stats.Refused, meter.Stats.TooShort, meter.Stats.Ready,
		s.batches)
	return nil
}

func follow(ctx, sending context.Context, source *capture.Source, meter *metering.Meter, s *sender) error {
	var burst capture.Burst
	sent := time.Now()
	for {
		err := source.Next(ctx, &burst)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "scatter: reading ends:", err)
			return nil
		}
		frame, now := 0, uint64(0)
		for _, info := range burst.Infos {
			meter.Push(burst.Bytes[frame:frame+int(info.Captured)], info)
			frame, now = frame+int(info.Captured), info.TimeNS
		}
		if source.Live {
			now = trafficgpt.NS(time.Now())
		}
		meter.Sweep(now)
		// No flow waits long for others that fill its batch.
		if s.due || time.Since(sent) > 200*time.Millisecond {
			sent = time.Now()
			if err := s.sendAll(sending); err != nil {
				return err
			}
		}
	}
}

// A sender gathers flows by shard.
type sender struct {
	x       *exchange.Exchange
	options options
	name    string
	shards  []shard
	due     bool
	batches int
}

type shard struct {
	batches [][]byte
	flows   int // of the last batch
}

// name is that of no other meter, and of no other run of this one.
func name() string {
	var random [8]byte
	rand.Read(random[:])
	return hex.EncodeToString(random[:])
}

// keyed is the hash (FNV-1a) of a flow's key: the same in every process, and for both directions.
func keyed(f *metering.Flow) uint64 {
	low, high := end(f.Client, f.ClientPort), end(f.Server, f.ServerPort)
	if string(low[:]) > string(high[:]) {
		low, high = high, low
	}
	hash := uint64(14695981039346656037)
	for _, part := range [][]byte{low[:], high[:], {f.Protocol}} {
		for _, b := range part {
			hash = (hash ^ uint64(b)) * 1099511628211
		}
	}
	// The low bits of FNV are the weakest.
	return hash ^ hash>>32
}

func end(address [16]byte, port uint16) (b [18]byte) {
	copy(b[:], address[:])
	b[16], b[17] = byte(port>>8), byte(port)
	return b
}

// take puts a flow into the shard of its key.
func (s *sender) take(f *metering.Flow) {
	to := &s.shards[keyed(f)%uint64(len(s.shards))]
	if to.flows == 0 || to.flows == s.options.batch {
		to.batches = append(to.batches, nil)
		to.flows = 0
	}
	last := len(to.batches) - 1
	to.batches[last] = exchange.Append(to.batches[last], f)
	to.flows++
	s.due = s.due || to.flows == s.options.batch
}

func complain(err error) {
	fmt.Fprintln(os.Stderr, "scatter: a batch is not stored yet:", err)
}

// sendAll stores what was gathered.
func (s *sender) sendAll(ctx context.Context) error {
	for i := range s.shards {
		for _, batch := range s.shards[i].batches {
			if err := s.x.Send(ctx, i, fmt.Sprintf("%s-%d", s.name, s.batches), batch, complain); err != nil {
				return err
			}
			s.batches++
		}
		s.shards[i] = shard{}
	}
	s.due = false
	return nil
}
