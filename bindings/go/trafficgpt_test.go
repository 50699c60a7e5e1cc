package trafficgpt_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"trafficgpt"
)

// fixture is the file that an environment variable names, or the first that a pattern finds.
func fixture(t testing.TB, variable, pattern string) string {
	t.Helper()
	if path := os.Getenv(variable); path != "" {
		return path
	}
	found, _ := filepath.Glob(pattern)
	if len(found) == 0 {
		t.Skipf("skipped: %s is not set and there is no %s", variable, pattern)
	}
	return found[0]
}

func bundle(t testing.TB) string {
	return fixture(t, "TRAFFICGPT_TEST_BUNDLE", "../../examples/models/*.tgpt")
}

func capture(t *testing.T) string {
	return fixture(t, "TRAFFICGPT_TEST_CAPTURE", "../../examples/captures/*.pcap*")
}

func native(t testing.TB) *trafficgpt.Context {
	t.Helper()
	context, err := trafficgpt.NewContext(trafficgpt.Settings{"engine": "native"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { context.Close() })
	return context
}

func classifier(t testing.TB) *trafficgpt.Classifier {
	t.Helper()
	classifier, err := native(t).OpenClassifier(bundle(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { classifier.Close() })
	return classifier
}

func flows(n int) (batch trafficgpt.Batch) {
	for i := range n {
		flow := []trafficgpt.Packet{{Size: int32(60 + i%1400)}}
		for j := range i % 20 {
			flow = append(flow, trafficgpt.Packet{Size: int32(-40 - (i*j)%1400), IPT: float32(j * 250)})
		}
		batch.Append(flow...)
	}
	return batch
}

func TestClassifyAgreesWithItselfBatchedOrNot(t *testing.T) {
	classifier, batch := classifier(t), flows(50)
	if classifier.Engine() != "native" || len(classifier.Labels()) == 0 {
		t.Fatalf("engine %q, labels %q", classifier.Engine(), classifier.Labels())
	}
	together, err := classifier.Classify(batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, verdict := range together {
		var one trafficgpt.Batch
		one.Append(batch.Flow(i)...)
		alone, err := classifier.Classify(one)
		if err != nil {
			t.Fatal(err)
		}
		if alone[0].Label != verdict.Label || abs(alone[0].Probability-verdict.Probability) > 1e-5 {
			t.Errorf("flow %d: %+v alone, %+v among others", i, alone[0], verdict)
		}
		if verdict.Label != trafficgpt.Unknown && verdict.Name != classifier.Labels()[verdict.Label] {
			t.Errorf("flow %d: label %d is called %q", i, verdict.Label, verdict.Name)
		}
	}
	embeddings, err := classifier.Embed(batch)
	if err != nil || len(embeddings) != 50*classifier.EmbeddingDim() {
		t.Fatalf("%d values, %v", len(embeddings), err)
	}
	if none, err := classifier.Classify(trafficgpt.Batch{}); err != nil || len(none) != 0 {
		t.Fatalf("no flows: %v, %v", none, err)
	}
}

func abs(x float32) float32 { return max(x, -x) }

func TestGoroutinesShareOneClassifier(t *testing.T) {
	classifier, batch := classifier(t), flows(40)
	want, err := classifier.Classify(batch)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Add(1)
		go func() {
			defer group.Done()
			for range 5 {
				got, err := classifier.Classify(batch)
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%v, %v", got, err)
				}
			}
		}()
	}
	group.Wait()
}

func TestGenerateIsRepeatable(t *testing.T) {
	context := native(t)
	generator, err := context.OpenGenerator(bundle(t))
	if err != nil {
		t.Fatal(err)
	}
	defer generator.Close()
	sampling := trafficgpt.DefaultSampling(7)
	sampling.MaxPackets = 10
	if len(generator.Classes()) > 0 {
		sampling.Class = 0
	}
	all, err := generator.Generate(12, sampling)
	if err != nil {
		t.Fatal(err)
	}
	sampling.FirstFlow = 5
	part, err := generator.Generate(7, sampling)
	if err != nil {
		t.Fatal(err)
	}
	for i := range part.Len() {
		if !reflect.DeepEqual(part.Flow(i), all.Flow(i+5)) {
			t.Errorf("flow %d: %v, then %v", i+5, all.Flow(i+5), part.Flow(i))
		}
		if n := len(all.Flow(i)); n < 1 || n > 10 {
			t.Errorf("flow %d has %d packets", i, n)
		}
	}
	sampling.Class = uint32(len(generator.Classes()))
	if _, err := generator.Generate(1, sampling); !errors.Is(err, trafficgpt.ErrInvalid) {
		t.Errorf("a class that is not there: %v", err)
	}
	if _, err := generator.Generate(-1, sampling); !errors.Is(err, trafficgpt.ErrInvalid) {
		t.Errorf("-1 flows: %v", err)
	}
	if none, err := generator.Generate(0, trafficgpt.DefaultSampling(1)); err != nil || none.Len() != 0 {
		t.Errorf("no flows: %v, %v", none, err)
	}
}

func TestContinueGoesOnAsItWas(t *testing.T) {
	generator, err := native(t).OpenGenerator(model)
	if err != nil {
		t.Fatal(err)
	}
	defer generator.Close()
	sampling := trafficgpt.DefaultSampling(7)
	all, err := generator.Generate(40, sampling)
	if err != nil {
		t.Fatal(err)
	}
	begin := func(n int) (begun trafficgpt.Batch) {
		for i := range all.Len() {
			begun.Append(all.Flow(i)[:min(n, len(all.Flow(i)))]...)
		}
		return begun
	}
	all, err = generator.Continue(begin(1), sampling)
	if err != nil {
		t.Fatal(err)
	}
	again, err := generator.Continue(begin(5), sampling)
	if err != nil || !reflect.DeepEqual(again, all) {
		t.Errorf("flows that were cut after 5 packets went on otherwise, or %v", err)
	}
	sampling.MinPackets, sampling.MaxPackets = 9, 9
	sampling.Banned = []uint32{0, 1, 2}
	some, err := generator.Continue(begin(5), sampling)
	if err != nil {
		t.Fatal(err)
	}
	for i := range some.Len() {
		if n := len(some.Flow(i)); n != 9 {
			t.Errorf("flow %d has %d packets", i, n)
		}
	}
	sampling.MinPackets, sampling.MaxPackets = 0, 3
	if _, err := generator.Continue(begin(5), sampling); !errors.Is(err, trafficgpt.ErrInvalid) {
		t.Errorf("flows that are too long already: %v", err)
	}
	sampling.MaxPackets, sampling.Banned = 0, []uint32{1 << 31}
	if _, err := generator.Generate(1, sampling); !errors.Is(err, trafficgpt.ErrInvalid) {
		t.Errorf("a token that there is not: %v", err)
	}
	if none, err := generator.Continue(trafficgpt.Batch{}, trafficgpt.DefaultSampling(1)); err != nil || none.Len() != 0 {
		t.Errorf("no flows: %v, %v", none, err)
	}
}

// What the model generates it finds likelier than the same packets in disorder of sizes.
func TestScoreKnowsItsOwnFlows(t *testing.T) {
	generator, err := native(t).OpenGenerator(model)
	if err != nil {
		t.Fatal(err)
	}
	defer generator.Close()
	own, err := generator.Generate(300, trafficgpt.DefaultSampling(5))
	if err != nil {
		t.Fatal(err)
	}
	likely, err := generator.Score(trafficgpt.Unknown, own)
	if err != nil || len(likely) != 300 {
		t.Fatalf("%d scores, %v", len(likely), err)
	}
	strange := trafficgpt.Batch{Packets: append([]trafficgpt.Packet(nil), own.Packets...), Offsets: own.Offsets}
	for i := range strange.Packets {
		strange.Packets[i].Size = int32(1 + (i*7919)%60_000)
	}
	unlikely, err := generator.ScoreContext(context.Background(), trafficgpt.Unknown, strange)
	if err != nil || len(unlikely) != 300 {
		t.Fatalf("%d scores, %v", len(unlikely), err)
	}
	var mean [2]float32
	for i := range likely {
		mean[0] += likely[i] / 300
		mean[1] += unlikely[i] / 300
	}
	if !(mean[0] > 0 && mean[1] > mean[0]+1) {
		t.Errorf("%v nats for its own flows, %v for others", mean[0], mean[1])
	}
	cut, err := generator.ScoreContext(&after{Context: context.Background(), looks: 1}, trafficgpt.Unknown, own)
	if !errors.Is(err, context.DeadlineExceeded) || !reflect.DeepEqual(cut, likely[:256]) {
		t.Errorf("cut: %d scores, %v", len(cut), err)
	}
	if _, err := generator.Score(uint32(len(generator.Classes())), own); !errors.Is(err, trafficgpt.ErrInvalid) {
		t.Errorf("a class that is not there: %v", err)
	}
	if none, err := generator.Score(trafficgpt.Unknown, trafficgpt.Batch{}); err != nil || len(none) != 0 {
		t.Errorf("no flows: %v, %v", none, err)
	}
}

func TestReadCaptureKeepsEveryFlow(t *testing.T) {
	capture, err := trafficgpt.ReadCapture(capture(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(capture.Info) == 0 || capture.Flows.Len() != len(capture.Info) {
		t.Fatalf("%d flows, %d infos", capture.Flows.Len(), len(capture.Info))
	}
	for i, info := range capture.Info {
		flow := capture.Flows.Flow(i)
		if len(flow) == 0 || uint64(len(flow)) > info.Packets || flow[0].Size <= 0 || flow[0].IPT != 0 {
			t.Errorf("flow %d: %d of %d packets, the first is %+v", i, len(flow), info.Packets, flow[0])
		}
		if !info.Client.IsValid() || !info.Server.IsValid() || info.End.Before(info.Start) || info.Start.Year() < 2000 {
			t.Errorf("flow %d: %+v", i, info)
		}
	}
	verdicts, err := classifier(t).Classify(capture.Flows)
	if err != nil || len(verdicts) != len(capture.Info) {
		t.Errorf("%d verdicts, %v", len(verdicts), err)
	}
}

func TestErrorsHaveStatusAndMessage(t *testing.T) {
	context, classifier := native(t), classifier(t)
	late := flows(2)
	late.Packets[0].IPT = -1
	past := flows(2)
	past.Offsets[2] = 1 << 40
	empty := trafficgpt.Batch{}
	empty.Append()
	for name, test := range map[string]struct {
		call   func() error
		status trafficgpt.Status
		says   string
	}{
		"setting": {func() error {
			_, err := trafficgpt.NewContext(trafficgpt.Settings{"no.such": "1"})
			return err
		}, trafficgpt.ErrInvalid, "no.such"},
		"bundle": {func() error {
			_, err := context.OpenClassifier("no/such.tgpt")
			return err
		}, trafficgpt.ErrIO, "no/such.tgpt"},
		"runtime": {func() error {
			onnx, err := trafficgpt.NewContext(trafficgpt.Settings{"engine": "onnx", "onnx.library": "/no/such.so"})
			if err != nil {
				return err
			}
			defer onnx.Close()
			_, err = onnx.OpenGenerator(bundle(t))
			return err
		}, trafficgpt.ErrNoRuntime, "/no/such.so"},
		"capture": {func() error {
			_, err := trafficgpt.ReadCapture("go.mod", nil)
			return err
		}, trafficgpt.ErrFormat, "go.mod"},
		"packet":  {func() error { _, err := classifier.Classify(late); return err }, trafficgpt.ErrInvalid, "flow 0"},
		"offsets": {func() error { _, err := classifier.Classify(past); return err }, trafficgpt.ErrInvalid, "offsets"},
		"empty":   {func() error { _, err := classifier.Embed(empty); return err }, trafficgpt.ErrInvalid, "flow 0"},
		"room": {func() error {
			return classifier.ClassifyInto(flows(2), make([]uint32, 1), nil)
		}, trafficgpt.ErrInvalid, "room"},
	} {
		err := test.call()
		var full *trafficgpt.Error
		if !errors.Is(err, test.status) || !errors.As(err, &full) || !strings.Contains(full.Message, test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCloseIsFinalAndInAnyOrder(t *testing.T) {
	context := native(t)
	classifier, err := context.OpenClassifier(bundle(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := classifier.Classify(flows(1)); err != nil {
		t.Fatal(err)
	}
	context.Close()
	if _, err := classifier.Classify(flows(1)); err != nil {
		t.Errorf("after its context was closed: %v", err)
	}
	classifier.Close()
	classifier.Close()
	if _, err := classifier.Classify(flows(1)); !errors.Is(err, trafficgpt.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := context.OpenClassifier(bundle(t)); !errors.Is(err, trafficgpt.ErrClosed) {
		t.Errorf("under a closed context: %v", err)
	}
}

// Forgotten handles are freed: opening models again and again takes no more memory than doing so a few times.
func TestForgottenHandlesAreFreed(t *testing.T) {
	if !returnsMemory(t) {
		return
	}
	round := func() {
		context, err := trafficgpt.NewContext(trafficgpt.Settings{"engine": "native"})
		if err != nil {
			t.Fatal(err)
		}
		classifier, err := context.OpenClassifier(model)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := classifier.Classify(flows(20)); err != nil {
			t.Fatal(err)
		}
	}
	resident := func(times int) int {
		for range times {
			round()
		}
		// Cleanups run on a goroutine of their own, some time after the collection.
		least := residentPages(t)
		for range 20 {
			runtime.GC()
			time.Sleep(10 * time.Millisecond)
			least = min(least, residentPages(t))
		}
		return least
	}
	few := resident(3)
	many := resident(30)
	// A model takes thousands of pages.
	if many-few > 30*500 {
		t.Errorf("%d pages after 3 models, %d after 30 more", few, many)
	}
}
