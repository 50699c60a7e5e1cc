package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"trafficgpt"
	"trafficgpt-examples/internal/capture"
	"trafficgpt-examples/internal/ipfix"
	"trafficgpt-examples/internal/record"
)

// An output takes flows. What it has taken is on its way after Flush.
type output interface {
	Write(*record.Record) error
	Flush() error
	Close() error
}

// outputs is all that were asked for. One that fails stops neither the others nor the probe: it is counted, and told of
// the first time and at the end.
type outputs []*watched

type watched struct {
	output
	name     string
	failures int
}

func (w *watched) note(err error) {
	if err == nil {
		return
	}
	metrics.GetOrCreateCounter(fmt.Sprintf("trafficgpt_output_errors_total{output=%q}", w.name)).Inc()
	if w.failures++; w.failures == 1 {
		fmt.Fprintf(os.Stderr, "probe: %s: %v\n", w.name, err)
	}
}

func open(o options, flows *trafficgpt.Flows, source *capture.Source) (all outputs, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, all.Close())
		}
	}()
	if o.metrics != "" {
		server, err := serveMetrics(o.metrics, flows, source)
		if err != nil {
			return all, err
		}
		all = append(all, &watched{output: server, name: "metrics"})
	}
	if o.json != "" {
		lines, err := openLines(o.json)
		if err != nil {
			return all, err
		}
		all = append(all, &watched{output: lines, name: "json"})
	}
	if o.ipfix != "" {
		writer, err := ipfix.Open(o.ipfix, uint32(o.domain))
		if err != nil {
			return all, err
		}
		all = append(all, &watched{output: finals{writer}, name: "ipfix"})
	}
	if o.nats != "" {
		stream, err := openStream(o.nats)
		if err != nil {
			return all, err
		}
		all = append(all, &watched{output: stream, name: "nats"})
	}
	return all, nil
}

func (all outputs) Write(r *record.Record) {
	for _, out := range all {
		out.note(out.Write(r))
	}
}

func (all outputs) Flush() {
	for _, out := range all {
		out.note(out.Flush())
	}
}

func (all outputs) Close() error {
	var failures []error
	for _, out := range all {
		err := out.Close()
		if out.failures > 0 {
			err = errors.Join(fmt.Errorf("%s failed %d times", out.name, out.failures), err)
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// finals lets only final verdicts through: a flow record is of a flow that has ended.
type finals struct{ *ipfix.Writer }

func (f finals) Write(r *record.Record) error {
	if !r.Final {
		return nil
	}
	return f.Writer.Write(r)
}

// lines writes JSON lines.
type lines struct {
	file   *os.File
	buffer *bufio.Writer
}

func openLines(path string) (*lines, error) {
	if path == "-" {
		return &lines{nil, bufio.NewWriter(os.Stdout)}, nil
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &lines{file, bufio.NewWriter(file)}, nil
}

func (l *lines) Write(r *record.Record) error { return json.NewEncoder(l.buffer).Encode(r) }
func (l *lines) Flush() error                 { return l.buffer.Flush() }

func (l *lines) Close() error {
	err := l.buffer.Flush()
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
	}
	return err
}

// subject is what those of verdicts begin with; the label follows.
const subject = "trafficgpt.probe"

// stream publishes to JetStream, many at a time.
type stream struct {
	connection *nats.Conn
	js         jetstream.JetStream
	failed     chan error
}

func openStream(url string) (*stream, error) {
	connection, err := nats.Connect(url, nats.Name("trafficgpt probe"), nats.MaxReconnects(-1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	s := &stream{connection: connection, failed: make(chan error, 1)}
	s.js, err = jetstream.New(connection, jetstream.WithPublishAsyncMaxPending(1024),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) {
			select {
			case s.failed <- err:
			default:
			}
		}))
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err = s.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name: "TRAFFICGPT_PROBE", Subjects: []string{subject + ".>"}, MaxAge: 24 * time.Hour, MaxBytes: 1 << 30,
		})
	}
	if err != nil {
		connection.Close()
		return nil, fmt.Errorf("%s: JetStream: %w", url, err)
	}
	return s, nil
}

func (s *stream) Write(r *record.Record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	// What separates the parts of a subject, and what stands for any, may not be in it.
	label := strings.Map(func(c rune) rune {
		if strings.ContainsRune(".*> \t", c) {
			return '_'
		}
		return c
	}, r.Label)
	// A probe that is started again on the same packets says nothing twice.
	id := fmt.Sprintf("%s-%d", r.ID, r.Read)
	_, err = s.js.PublishAsync(subject+"."+label, data, jetstream.WithMsgID(id))
	return err
}

// Flush tells of what failed since; it waits for nobody.
func (s *stream) Flush() error {
	select {
	case err := <-s.failed:
		return fmt.Errorf("JetStream: %w", err)
	default:
		return nil
	}
}

func (s *stream) Close() error {
	defer s.connection.Close()
	select {
	case <-s.js.PublishAsyncComplete():
		return s.Flush()
	case <-time.After(10 * time.Second):
		return fmt.Errorf("JetStream: %d verdicts were not acknowledged", s.js.PublishAsyncPending())
	}
}
