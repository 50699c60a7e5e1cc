// Command probe tells what the flows of an interface or a capture are while their packets come, and passes it on: as JSON
// lines, as IPFIX to any collector, to NATS JetStream, and as metrics for Prometheus.
//
//	go run ./probe -model model.tgpt -json - capture.pcap
//	sudo ./probe -model model.tgpt -i eth0 -metrics :9090 -ipfix udp:collector:4739 -nats nats://localhost:4222
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"trafficgpt"
	"trafficgpt-examples/internal/capture"
	"trafficgpt-examples/internal/record"
)

type options struct {
	model, device, json, ipfix, nats, metrics string
	all                                       bool
	domain                                    uint
	settings                                  trafficgpt.Settings
}

func main() {
	o := options{settings: trafficgpt.Settings{}}
	flag.StringVar(&o.model, "model", "", "bundle of the classifier (needed)")
	flag.StringVar(&o.device, "i", "", "listen on this `interface`, instead of reading a capture")
	flag.StringVar(&o.json, "json", "", "write JSON lines to this `file`; - is the standard output")
	flag.StringVar(&o.ipfix, "ipfix", "", "send IPFIX to udp:HOST:PORT or tcp:HOST:PORT, or write it to file:PATH")
	flag.UintVar(&o.domain, "domain", 1, "IPFIX observation domain")
	flag.StringVar(&o.nats, "nats", "", "publish to JetStream on the NATS server at this `URL`, under "+subject+".LABEL")
	flag.StringVar(&o.metrics, "metrics", "", "serve metrics for Prometheus on this `address`, at /metrics")
	flag.BoolVar(&o.all, "all", false, "pass a flow's earlier verdicts on too, not only its final one; IPFIX gets final ones")
	flag.Func("set", "KEY=VALUE: any setting of the library, such as flows.counts=8,32; many times", func(s string) error {
		key, value, found := strings.Cut(s, "=")
		if !found {
			return errors.New("not KEY=VALUE")
		}
		o.settings[key] = value
		return nil
	})
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: probe -model BUNDLE [OPTION]... (-i INTERFACE | CAPTURE)")
		flag.PrintDefaults()
	}
	flag.Parse()
	if o.model == "" || (o.device == "") == (flag.NArg() == 0) || flag.NArg() > 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, o options, path string) (err error) {
	root, err := trafficgpt.NewContext(o.settings)
	if err != nil {
		return err
	}
	defer root.Close()
	classifier, err := root.OpenClassifier(o.model)
	if err != nil {
		return err
	}
	defer classifier.Close()
	flows, err := classifier.NewFlows(o.settings)
	if err != nil {
		return err
	}
	defer flows.Close()
	source, err := capture.Open(o.device, path)
	if err != nil {
		return err
	}
	defer source.Close()
	outputs, err := open(o, flows, source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, outputs.Close()) }()
	fmt.Fprintf(os.Stderr, "probe: %d labels, engine %s\n", len(classifier.Labels()), classifier.Engine())

	p := pipe{flows: flows, outputs: outputs, all: o.all, seconds: newSeconds()}
	if err := p.follow(ctx, source); err != nil {
		return err
	}
	stats, err := flows.Stats()
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "probe: %d packets, %d dropped, %d flows, %d final verdicts, %d evicted\n", stats.Packets,
		source.Dropped(), stats.Flows, stats.VerdictsFinal, stats.FlowsEvicted)
	return nil
}

// A pipe leads from a table to the outputs.
type pipe struct {
	flows   *trafficgpt.Flows
	outputs outputs
	all     bool
	seconds histogram
}

// follow pushes what the source gives until it ends or ctx is done, and then ends all flows.
func (p *pipe) follow(ctx context.Context, source *capture.Source) error {
	var burst capture.Burst
	flushed := time.Now()
	for {
		err := source.Next(ctx, &burst)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			break
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "probe: reading ends:", err)
			break
		}
		if err := p.flows.PushFrames(source.LinkType, burst.Bytes, burst.Infos); err != nil {
			return err
		}
		// A capture has its own time; an interface's goes on without packets.
		now := uint64(0)
		if source.Live {
			now = trafficgpt.NS(time.Now())
		}
		if err := p.poll(now); err != nil {
			return err
		}
		if time.Since(flushed) > time.Second {
			flushed = time.Now()
			p.outputs.Flush()
		}
	}
	if err := p.flows.Flush(); err != nil {
		return err
	}
	return p.poll(0)
}

func (p *pipe) poll(now uint64) error {
	start := time.Now()
	n := 0
	// What is due is passed on also when ctx is done: those are the last verdicts.
	for v, err := range p.flows.Verdicts(context.Background(), now) {
		if err != nil {
			return err
		}
		n++
		if !v.Final() && !p.all {
			continue
		}
		r := record.Record{Start: v.Start(), End: v.Last(), Client: v.Client(), Server: v.Server(), Protocol: v.Protocol,
			Packets: uint64(v.Packets), Label: p.flows.Name(v), Probability: v.Probability, Read: int(v.Read),
			Reason: v.Reason.String(), Final: v.Final()}
		r.SetID()
		p.outputs.Write(&r)
	}
	if n > 0 {
		p.seconds.Update(time.Since(start).Seconds() / float64(n))
	}
	return nil
}
