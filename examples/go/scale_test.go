package examples_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"trafficgpt-examples/internal/exchange"
	"trafficgpt-examples/internal/record"
)

// outcome is what a flow's verdict must have in common with that of any other run.
func outcome(r *record.Record) string {
	return fmt.Sprintf("%s %v %v %d %v read %d as %s %.3f", r.ID, r.Client, r.Server, r.Protocol, r.Start, r.Read, r.Label,
		r.Probability)
}

// answers reads all verdicts in the stream, by outcome.
func answers(t *testing.T, url string) (outcomes map[string]int, byWorker map[string]int) {
	t.Helper()
	connection, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	outcomes, byWorker = map[string]int{}, map[string]int{}
	stream, err := js.Stream(ctx, "TRAFFICGPT_VERDICTS")
	if err != nil {
		return outcomes, byWorker
	}
	info, err := stream.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for sequence := uint64(1); sequence <= info.State.LastSeq; sequence++ {
		message, err := stream.GetMsg(ctx, sequence)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records(t, string(message.Data)) {
			outcomes[outcome(&r)]++
			byWorker[r.Worker]++
		}
	}
	return outcomes, byWorker
}

// flowsStream is the stream of batches.
func flowsStream(t *testing.T, url string) jetstream.Stream {
	t.Helper()
	connection, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connection.Close)
	js, err := jetstream.New(connection)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(context.Background(), "TRAFFICGPT_FLOWS")
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// waiting is the number of batches that no worker has acknowledged.
func waiting(t *testing.T, url string) uint64 {
	t.Helper()
	return flowsStream(t, url).CachedInfo().State.Msgs
}

// waitingPulls is the number of workers that wait for a batch, summed over the shards.
func waitingPulls(t *testing.T, url string) (n int) {
	t.Helper()
	for info := range flowsStream(t, url).ListConsumers(context.Background()).Info() {
		n += info.NumWaiting
	}
	return n
}

// Two workers share the flows of a capture, one is killed, and each flow has one verdict: the one that a single process
// gives it, whose flows the library's own table makes.
func TestAKilledWorkerLosesAndDoublesNothing(t *testing.T) {
	url := natsServer(t)
	x, err := exchange.Connect(context.Background(), url, "test")
	if err != nil {
		t.Fatal(err)
	}
	x.Close()
	alone := run(t, program(t, "probe", "-model", model, "-json", "-", "-set", "engine=native", "-set", "flows.counts=32",
		"-set", "flows.confidence=1", mixed))
	want := map[string]int{}
	for _, r := range records(t, alone) {
		want[outcome(&r)]++
	}

	start := func(name string) (*exec.Cmd, *bytes.Buffer) {
		worker := program(t, "worker", "-model", model, "-engine", "native", "-nats", url, "-name", name, "-patience", "2s")
		var log bytes.Buffer
		worker.Stderr = &log
		if err := worker.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			worker.Process.Kill()
			worker.Wait()
		})
		return worker, &log
	}
	// The packets come through a pipe, so that the kill is in their middle. One batch a flow: there is much to share.
	pipe := filepath.Join(t.TempDir(), "capture")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip("skipped: no named pipes here: that killed workers lose nothing")
	}
	scatter := program(t, "scatter", "-nats", url, "-batch", "1", pipe)
	packets, writer := fed(t, scatter, pipe)
	defer scatter.Process.Kill()
	first, _ := start("first")
	second, log := start("second")
	eventually(t, "both wait for all shards", func() bool { return waitingPulls(t, url) >= 2*8 })
	if _, err := writer.Write(packets[:len(packets)/2]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both share the load", func() bool {
		_, by := answers(t, url)
		return by["first"] > 10 && by["second"] > 10
	})
	// Stopped, it still is given the batches that it has asked for. SIGKILL then tidies nothing up.
	if err := first.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Write(packets[len(packets)/2:]); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	if err := scatter.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.Wait()
	eventually(t, "the second does what is left", func() bool { return waiting(t, url) == 0 })
	if err := second.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(); err != nil {
		t.Errorf("the second worker: %v", err)
	}

	got, by := answers(t, url)
	t.Logf("%d verdicts by the first worker, %d by the second: %s", by["first"], by["second"], log)
	for key, n := range got {
		if n != 1 {
			t.Errorf("%d times: %s", n, key)
		}
		if want[key] == 0 {
			t.Errorf("the single process did not say: %s", key)
		}
	}
	for key := range want {
		if got[key] == 0 {
			t.Errorf("only the single process said: %s", key)
		}
	}
	if !strings.Contains(log.String(), fmt.Sprintf("gave %d verdicts", by["second"])) ||
		strings.Contains(log.String(), "given up") || strings.Contains(log.String(), " 0 batches were left by others") {
		t.Error(log.String())
	}
}

func complain(t testing.TB) func(error) {
	return func(err error) { t.Errorf("not stored at once: %v", err) }
}

// A batch that comes twice, as after a crash between storing and acknowledging, or from a meter that had no answer, is
// one batch with one answer.
func TestWhatComesTwiceIsStoredOnce(t *testing.T) {
	url := natsServer(t)
	ctx := context.Background()
	x, err := exchange.Connect(ctx, url, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	for range 2 {
		if err := x.Send(ctx, 3, "meter-1", []byte("batch"), complain(t)); err != nil {
			t.Fatal(err)
		}
	}
	if n := waiting(t, url); n != 1 {
		t.Errorf("%d batches", n)
	}
	line := []byte(`{"id":"1"}` + "\n")
	for i, want := range []bool{true, false, false} {
		stored, err := x.Answer(ctx, 3, "meter-1", line)
		if err != nil || stored != want {
			t.Errorf("answer %d: %v, %v", i, stored, err)
		}
	}
	if stored, err := x.Answer(ctx, 3, "meter-2", line); err != nil || !stored {
		t.Errorf("another batch's: %v, %v", stored, err)
	}
}

// What cannot be read is given up by the worker that meets it, and holds nobody up.
func TestADamagedBatchHoldsNobodyUp(t *testing.T) {
	url := natsServer(t)
	ctx := context.Background()
	x, err := exchange.Connect(ctx, url, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	empty := make([]byte, 64)
	for i, batch := range []string{"cut", string(empty), string(empty[:62]) + "\xff\xff"} {
		if err := x.Send(ctx, 0, fmt.Sprint("bad-", i), []byte(batch), complain(t)); err != nil {
			t.Fatal(err)
		}
	}
	worker := program(t, "worker", "-model", model, "-engine", "native", "-nats", url, "-shards", "1")
	var log bytes.Buffer
	worker.Stderr = &log
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left", func() bool { return waiting(t, url) == 0 })
	worker.Process.Kill()
	worker.Wait()
	if n := strings.Count(log.String(), "given up"); n != 3 {
		t.Errorf("%d given up: %s", n, log.String())
	}
}
