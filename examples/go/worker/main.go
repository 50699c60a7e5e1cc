// Command worker classifies the flows that meters hand over through NATS JetStream, together with any number of others:
// see docs/scaling.md.
//
//	./worker -model model.tgpt -nats nats://localhost:4222
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"trafficgpt"
	"trafficgpt-examples/internal/exchange"
	"trafficgpt-examples/internal/metering"
	"trafficgpt-examples/internal/record"
)

type options struct {
	model, engine, nats, name string
	shards                    int
	patience                  time.Duration
}

func main() {
	var o options
	host, _ := os.Hostname()
	flag.StringVar(&o.model, "model", "", "bundle of the classifier (needed)")
	flag.StringVar(&o.engine, "engine", "auto", "who runs the network: auto, native, onnx or cuda")
	flag.StringVar(&o.nats, "nats", "nats://localhost:4222", "the NATS server, as `URL`")
	flag.StringVar(&o.name, "name", fmt.Sprintf("%s-%d", host, os.Getpid()), "what this worker is called in verdicts")
	flag.IntVar(&o.shards, "shards", 8, "number of shards, the same for all meters and workers")
	flag.DurationVar(&o.patience, "patience", 30*time.Second, "time after which another worker gets what this one has "+
		"not finished; the same for all workers, and longer than a batch takes")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: worker -model BUNDLE [OPTION]...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if o.model == "" || flag.NArg() > 0 || o.shards < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, o options) error {
	root, err := trafficgpt.NewContext(trafficgpt.Settings{"engine": o.engine})
	if err != nil {
		return err
	}
	defer root.Close()
	classifier, err := root.OpenClassifier(o.model)
	if err != nil {
		return err
	}
	defer classifier.Close()
	x, err := exchange.Connect(ctx, o.nats, "trafficgpt worker "+o.name)
	if err != nil {
		return err
	}
	defer x.Close()
	fmt.Fprintf(os.Stderr, "worker: %s is ready, engine %s\n", o.name, classifier.Engine())

	w := worker{x: x, classifier: classifier, name: o.name}
	var group sync.WaitGroup
	failures := make([]error, o.shards)
	for shard := range o.shards {
		group.Add(1)
		go func() {
			defer group.Done()
			failures[shard] = x.Take(ctx, shard, o.patience, func(message jetstream.Msg) { w.work(ctx, shard, message) })
		}()
	}
	group.Wait()
	fmt.Fprintf(os.Stderr, "worker: %s gave %d verdicts; %d batches were left by others, of %d the verdicts were there\n",
		o.name, w.verdicts.Load(), w.left.Load(), w.late.Load())
	return errors.Join(failures...)
}

type worker struct {
	x                    *exchange.Exchange
	classifier           *trafficgpt.Classifier
	name                 string
	verdicts, left, late atomic.Int64
}

// work classifies a batch, stores the verdicts, and only then acknowledges the batch: it is never lost, and verdicts that
// are stored already stay the only ones.
func (w *worker) work(ctx context.Context, shard int, message jetstream.Msg) {
	if exchange.WasTaken(message) {
		w.left.Add(1)
	}
	verdicts, n, err := w.classify(message.Data())
	if errors.Is(err, errUnreadable) {
		// It would be so for every worker.
		fmt.Fprintf(os.Stderr, "worker: batch %s is given up: %v\n", exchange.BatchID(message), err)
		_ = message.Term()
		return
	}
	stored := false
	if err == nil {
		stored, err = w.x.Answer(ctx, shard, exchange.BatchID(message), verdicts)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "worker: batch %s is left to another: %v\n", exchange.BatchID(message), err)
		_ = message.NakWithDelay(time.Second)
		return
	}
	if stored {
		w.verdicts.Add(int64(n))
	} else {
		w.late.Add(1)
	}
	// Should this get lost, the batch comes again, and finds its verdicts stored.
	_ = message.Ack()
}

var errUnreadable = errors.New("it cannot be read")

// classify gives the verdicts of a batch as JSON lines, and their number.
func (w *worker) classify(data []byte) ([]byte, int, error) {
	var batch trafficgpt.Batch
	flows, err := exchange.Read(data, &batch)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	verdicts, err := w.classifier.Classify(batch)
	if errors.Is(err, trafficgpt.ErrInvalid) {
		return nil, 0, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if err != nil {
		return nil, 0, err
	}
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	for i, verdict := range verdicts {
		r := said(&flows[i], verdict)
		r.Read, r.Worker = len(batch.Flow(i)), w.name
		if err := encoder.Encode(&r); err != nil {
			return nil, 0, err
		}
	}
	return lines.Bytes(), len(verdicts), nil
}

func said(f *metering.Flow, verdict trafficgpt.Verdict) record.Record {
	end := func(address [16]byte, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16(address).Unmap(), port)
	}
	r := record.Record{
		Start: time.Unix(0, int64(f.StartNS)).UTC(), End: time.Unix(0, int64(f.LastNS)).UTC(),
		Client: end(f.Client, f.ClientPort), Server: end(f.Server, f.ServerPort), Protocol: f.Protocol, Packets: f.Count,
		Label: verdict.Name, Probability: verdict.Probability, Reason: f.Reason.String(), Final: true,
	}
	r.SetID()
	return r
}
