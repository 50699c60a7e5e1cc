package main

import (
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/VictoriaMetrics/metrics"

	"trafficgpt"
	"trafficgpt-examples/internal/capture"
	"trafficgpt-examples/internal/record"
)

// server serves metrics, and counts verdicts for them.
type server struct{ listener net.Listener }

type histogram = *metrics.Histogram

// newSeconds is where polls tell how long a verdict took.
func newSeconds() histogram { return metrics.GetOrCreateHistogram("trafficgpt_verdict_seconds") }

func serveMetrics(address string, flows *trafficgpt.Flows, source *capture.Source) (*server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		writeStats(w, flows)
		metrics.WriteCounterUint64(w, "trafficgpt_frames_dropped_total", source.Dropped())
		metrics.WritePrometheus(w, true)
	})
	go http.Serve(listener, mux)
	fmt.Fprintf(os.Stderr, "probe: metrics at http://%s/metrics\n", listener.Addr())
	return &server{listener}, nil
}

// writeStats writes the table's own counts.
func writeStats(w http.ResponseWriter, flows *trafficgpt.Flows) {
	stats, err := flows.Stats()
	if err != nil {
		return
	}
	metrics.WriteCounterUint64(w, "trafficgpt_packets_total", stats.Packets)
	metrics.WriteCounterUint64(w, "trafficgpt_bytes_total", stats.Bytes)
	metrics.WriteCounterUint64(w, "trafficgpt_frames_skipped_total", stats.FramesSkipped)
	metrics.WriteCounterUint64(w, "trafficgpt_packets_refused_total", stats.PacketsRefused)
	metrics.WriteCounterUint64(w, "trafficgpt_flows_total", stats.Flows)
	metrics.WriteCounterUint64(w, "trafficgpt_flows_evicted_total", stats.FlowsEvicted)
	metrics.WriteGaugeUint64(w, "trafficgpt_flows_tracked", stats.FlowsTracked)
	metrics.WriteGaugeUint64(w, "trafficgpt_flows_due", stats.FlowsDue)
	metrics.WriteGaugeUint64(w, "trafficgpt_flows_max", stats.MaxFlows)
	metrics.WriteGaugeUint64(w, "trafficgpt_table_bytes", stats.Memory)
}

func (s *server) Write(r *record.Record) error {
	metrics.GetOrCreateCounter(fmt.Sprintf("trafficgpt_verdicts_total{label=%q,reason=%q,final=\"%t\"}", r.Label, r.Reason,
		r.Final)).Inc()
	return nil
}

func (s *server) Flush() error { return nil }
func (s *server) Close() error { return s.listener.Close() }
