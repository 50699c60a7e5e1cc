package trafficgpt_test

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"trafficgpt"
)

const start = 1_700_000_000_000_000_000

func table(t testing.TB, settings trafficgpt.Settings) *trafficgpt.Flows {
	t.Helper()
	flows, err := classifier(t).NewFlows(settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { flows.Close() })
	return flows
}

// observations are the packets of a batch's flows, side by side, from 10.0.x.y:4000 to 10.1.0.1:53. Times are whole
// microseconds.
func observations(batch trafficgpt.Batch) (all []trafficgpt.Observation) {
	client := func(i int) [16]byte { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).As16() }
	server := netip.AddrFrom4([4]byte{10, 1, 0, 1}).As16()
	times := make([]uint64, batch.Len())
	for j, more := 0, true; more; j++ {
		more = false
		for i := range batch.Len() {
			if flow := batch.Flow(i); j < len(flow) {
				more = true
				times[i] += uint64(flow[j].IPT) * 1000
				o := trafficgpt.Observation{TimeNS: start + times[i], Src: client(i), Dst: server, SrcPort: 4000, DstPort: 53,
					Size: uint32(flow[j].Size), Protocol: 17}
				if flow[j].Size < 0 {
					o.Src, o.Dst, o.SrcPort, o.DstPort = o.Dst, o.Src, o.DstPort, o.SrcPort
					o.Size = uint32(-flow[j].Size)
				}
				all = append(all, o)
			}
		}
	}
	return all
}

// frame is o as Ethernet, IPv4 and UDP headers without payload, and what is known of it.
func frame(o trafficgpt.Observation) ([]byte, trafficgpt.FrameInfo) {
	b := make([]byte, 42)
	b[12], b[13], b[14], b[16], b[17], b[22], b[23] = 8, 0, 0x45, byte(o.Size>>8), byte(o.Size), 64, o.Protocol
	copy(b[26:], o.Src[12:])
	copy(b[30:], o.Dst[12:])
	b[34], b[35], b[36], b[37] = byte(o.SrcPort>>8), byte(o.SrcPort), byte(o.DstPort>>8), byte(o.DstPort)
	return b, trafficgpt.FrameInfo{TimeNS: o.TimeNS, Captured: uint32(len(b)), Length: o.Size + 14}
}

// all polls until nothing is due.
func all(t testing.TB, flows *trafficgpt.Flows) (verdicts []trafficgpt.FlowVerdict) {
	t.Helper()
	for verdict, err := range flows.Verdicts(context.Background(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		verdicts = append(verdicts, *verdict)
	}
	return verdicts
}

// Each flow's final verdict is what Classify says of its packets.
func TestFlowsSayWhatClassifySays(t *testing.T) {
	batch := flows(150)
	want, err := classifier(t).Classify(batch)
	if err != nil {
		t.Fatal(err)
	}
	flows := table(t, trafficgpt.Settings{"flows.counts": "32", "flows.min_packets": "1"})
	observations := observations(batch)
	for len(observations) > 0 {
		n := min(37, len(observations))
		if err := flows.Push(observations[:n]); err != nil {
			t.Fatal(err)
		}
		observations = observations[n:]
	}
	if err := flows.Flush(); err != nil || flows.Due() != 150 {
		t.Fatalf("%d flows are due, %v", flows.Due(), err)
	}
	verdicts := all(t, flows)
	if len(verdicts) != 150 || flows.Due() != 0 {
		t.Fatalf("%d verdicts, %d flows still due", len(verdicts), flows.Due())
	}
	for _, v := range verdicts {
		four := v.Client().Addr().As4()
		i := int(four[2])<<8 | int(four[3])
		if v.Label != want[i].Label || flows.Name(&v) != want[i].Name || abs(v.Probability-want[i].Probability) > 1e-5 {
			t.Errorf("flow %d: %s %v, Classify says %+v", i, flows.Name(&v), v.Probability, want[i])
		}
		flow := batch.Flow(i)
		if !v.Final() || v.Reason != trafficgpt.ReasonFlushed || v.Reason.String() != "flushed" || v.Protocol != 17 ||
			v.Server() != netip.MustParseAddrPort("10.1.0.1:53") || v.Client().Port() != 4000 ||
			int(v.Packets) != len(flow) || int(v.Read) != len(flow) || v.Start().UnixNano() != start || v.Last().Before(v.Start()) {
			t.Errorf("flow %d: %+v", i, v)
		}
	}
	stats, err := flows.Stats()
	if err != nil || stats.Flows != 150 || stats.VerdictsFinal != 150 || int(stats.Packets) != len(batch.Packets) ||
		stats.FlowsTracked != 0 || stats.MaxFlows != 65536 || stats.Memory < 64*65536 {
		t.Errorf("%+v, %v", stats, err)
	}
}

func TestFramesAreWhatTheirPacketsAre(t *testing.T) {
	settings := trafficgpt.Settings{"flows.counts": "4,12", "flows.min_packets": "1", "flows.max_flows": "1000"}
	parsed, framed := table(t, settings), table(t, settings)
	observations := observations(flows(100))
	if err := parsed.Push(observations); err != nil {
		t.Fatal(err)
	}
	var bytes []byte
	var infos []trafficgpt.FrameInfo
	for _, o := range observations {
		b, info := frame(o)
		bytes, infos = append(bytes, b...), append(infos, info)
	}
	// More than fit into one chunk on the other side.
	if len(infos) < 600 {
		t.Fatalf("%d frames", len(infos))
	}
	if err := framed.PushFrames(trafficgpt.LinkEthernet, bytes, infos); err != nil {
		t.Fatal(err)
	}
	want, got := all(t, parsed), all(t, framed)
	if len(want) == 0 || !reflect.DeepEqual(want, got) {
		t.Errorf("%d verdicts of packets, %d of frames", len(want), len(got))
	}
	if err := framed.PushFrames(trafficgpt.LinkEthernet, nil, nil); err != nil {
		t.Errorf("no frames: %v", err)
	}
	if err := framed.PushFrames(trafficgpt.LinkEthernet, bytes[1:], infos); !errors.Is(err, trafficgpt.ErrInvalid) {
		t.Errorf("a byte less than infos tell of: %v", err)
	}
	if err := framed.PushFrames(9999, bytes, infos); !errors.Is(err, trafficgpt.ErrInvalid) ||
		!strings.Contains(err.Error(), "9999") {
		t.Errorf("a link type that is none: %v", err)
	}
}

// A push and a poll that finds nothing allocate nothing on Go's side, as the C library allocates nothing on its own.
func TestPushAllocatesNothing(t *testing.T) {
	flows := table(t, trafficgpt.Settings{"flows.min_packets": "60000"})
	observations := observations(flows100())
	bytes, info := frame(observations[0])
	infos, out := []trafficgpt.FrameInfo{info}, make([]trafficgpt.FlowVerdict, 4)
	if n := testing.AllocsPerRun(100, func() {
		if flows.Push(observations) != nil || flows.PushFrames(trafficgpt.LinkEthernet, bytes, infos) != nil {
			t.Error("push failed")
		}
		if n, err := flows.Poll(0, out[:0]); n != 0 || err != nil {
			t.Error("poll failed")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func flows100() trafficgpt.Batch { return flows(100) }

func TestClassifyIntoAllocatesNothing(t *testing.T) {
	classifier, batch := classifier(t), flows(3)
	labels, scores := make([]uint32, 3), make([]float32, 3*len(classifier.Labels()))
	if n := testing.AllocsPerRun(20, func() {
		if err := classifier.ClassifyInto(batch, labels, scores); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSwapWhilePacketsFlow(t *testing.T) {
	flows, other := table(t, trafficgpt.Settings{"flows.counts": "4", "flows.min_packets": "1"}), classifier(t)
	observations := observations(flows100())
	swapped := make(chan uint32)
	go func() {
		epoch, err := flows.Swap(other)
		if err != nil {
			t.Error(err)
		}
		if _, err := flows.Stats(); err != nil {
			t.Error(err)
		}
		swapped <- epoch
	}()
	var verdicts []trafficgpt.FlowVerdict
	for i := range observations {
		if err := flows.Push(observations[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	epoch := <-swapped
	verdicts = append(verdicts, all(t, flows)...)
	if err := flows.Flush(); err != nil {
		t.Fatal(err)
	}
	verdicts = append(verdicts, all(t, flows)...)
	if epoch != 1 || len(verdicts) != 100 {
		t.Fatalf("epoch %d, %d verdicts", epoch, len(verdicts))
	}
	for _, v := range verdicts {
		if name := flows.Name(&v); v.Label != trafficgpt.Unknown && name != other.Labels()[v.Label] {
			t.Errorf("label %d of epoch %d is called %q", v.Label, v.Epoch, name)
		}
	}
	if stats, err := flows.Stats(); err != nil || stats.Swaps != 1 || stats.Epoch != 1 {
		t.Errorf("%+v, %v", stats, err)
	}
	closed := classifier(t)
	closed.Close()
	if _, err := flows.Swap(closed); !errors.Is(err, trafficgpt.ErrClosed) {
		t.Errorf("a closed classifier: %v", err)
	}
}

func TestFlowsErrors(t *testing.T) {
	if _, err := classifier(t).NewFlows(trafficgpt.Settings{"flows.counts": "9,1"}); !errors.Is(err, trafficgpt.ErrInvalid) {
		t.Errorf("counts that fall: %v", err)
	}
	flows := table(t, nil)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for verdict, err := range flows.Verdicts(cancelled, 0) {
		if verdict != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("after cancel: %v, %v", verdict, err)
		}
	}
	flows.Close()
	flows.Close()
	_, polled := flows.Poll(0, nil)
	_, stats := flows.Stats()
	for i, err := range []error{flows.Push(nil), flows.PushFrames(1, nil, nil), flows.Flush(), polled, stats} {
		if !errors.Is(err, trafficgpt.ErrClosed) {
			t.Errorf("call %d after Close: %v", i, err)
		}
	}
	if flows.Due() != 0 || flows.Name(&trafficgpt.FlowVerdict{Label: trafficgpt.Unknown}) != "unknown" {
		t.Error("a closed table has due flows, or a name for the unknown")
	}
	if word := trafficgpt.Reason(200).String(); word != "other" {
		t.Errorf("a reason to come is %q", word)
	}
}

// One goroutine pushes, others poll and read: what comes too early is told so, and nothing else happens.
func TestFlowsAreForOneGoroutineAtATime(t *testing.T) {
	flows := table(t, trafficgpt.Settings{"flows.max_flows": "1000"})
	observations := observations(flows100())
	done := make(chan struct{})
	for range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			out := make([]trafficgpt.FlowVerdict, 8)
			for range 200 {
				if err := flows.Push(observations[:64]); err != nil && !errors.Is(err, trafficgpt.ErrBusy) {
					t.Error(err)
				}
				if _, err := flows.Poll(0, out); err != nil && !errors.Is(err, trafficgpt.ErrBusy) {
					t.Error(err)
				}
				if _, err := flows.Stats(); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	for range 4 {
		<-done
	}
}

func TestContextsEndWorkBetweenPieces(t *testing.T) {
	classifier, batch := classifier(t), flows(600)
	want, err := classifier.Classify(batch)
	if err != nil {
		t.Fatal(err)
	}
	got, err := classifier.ClassifyContext(context.Background(), batch)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("in pieces: %d verdicts, %v", len(got), err)
	}
	// Done after it was looked at twice.
	got, err = classifier.ClassifyContext(&after{Context: context.Background(), looks: 2}, batch)
	if !errors.Is(err, context.DeadlineExceeded) || !reflect.DeepEqual(got, want[:len(got)]) || len(got) != 512 {
		t.Errorf("cut: %d verdicts, %v", len(got), err)
	}
	batch.Packets[batch.Offsets[520]].IPT = -1
	if _, err := classifier.ClassifyContext(context.Background(), batch); !errors.Is(err, trafficgpt.ErrInvalid) ||
		!strings.Contains(err.Error(), "from flow 512 on: flow 8") {
		t.Errorf("a packet in the third piece: %v", err)
	}
	batch.Offsets[300] = batch.Offsets[299] - 1
	if _, err := classifier.ClassifyContext(context.Background(), batch); !errors.Is(err, trafficgpt.ErrInvalid) ||
		!strings.Contains(err.Error(), "flow 299") {
		t.Errorf("offsets that fall: %v", err)
	}

	generator, err := native(t).OpenGenerator(bundle(t))
	if err != nil {
		t.Fatal(err)
	}
	defer generator.Close()
	sampling := trafficgpt.DefaultSampling(3)
	sampling.MaxPackets = 4
	whole, err := generator.Generate(300, sampling)
	if err != nil {
		t.Fatal(err)
	}
	pieces, err := generator.GenerateContext(context.Background(), 300, sampling)
	if err != nil || !reflect.DeepEqual(pieces, whole) {
		t.Errorf("in pieces: %d flows, %v", pieces.Len(), err)
	}
	pieces, err = generator.GenerateContext(&after{Context: context.Background(), looks: 1}, 300, sampling)
	if !errors.Is(err, context.DeadlineExceeded) || pieces.Len() != 256 || !reflect.DeepEqual(pieces.Flow(255), whole.Flow(255)) {
		t.Errorf("cut: %d flows, %v", pieces.Len(), err)
	}
}

// after is a context that is done when it has been looked at so often.
type after struct {
	context.Context
	looks int
}

func (a *after) Err() error {
	if a.looks--; a.looks < 0 {
		return context.DeadlineExceeded
	}
	return nil
}

// Tables take their memory at once, and give it back: closed, or forgotten and found by the garbage collector.
func TestTablesAreFreed(t *testing.T) {
	if !returnsMemory(t) {
		return
	}
	classifier := classifier(t)
	observations := observations(flows100())
	// Each takes more than 9 MB; 60 that are never freed would be seen.
	round := func(forget bool) {
		flows, err := classifier.NewFlows(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := flows.Push(observations); err != nil {
			t.Fatal(err)
		}
		if !forget {
			flows.Close()
			return
		}
		flows = nil
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
	round(false)
	before := residentPages(t)
	for i := range 60 {
		round(i%2 == 1)
	}
	grown := 0
	for range 100 {
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
		if grown = residentPages(t) - before; grown < 20_000 {
			return
		}
	}
	t.Errorf("%d pages more after 60 tables", grown)
}
