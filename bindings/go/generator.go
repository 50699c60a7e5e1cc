package trafficgpt

// #include <stdlib.h>
// #include <trafficgpt.h>
// #cgo noescape tgpt_generate
// #cgo nocallback tgpt_generate
// #cgo noescape tgpt_continue
// #cgo nocallback tgpt_continue
// #cgo noescape tgpt_score
// #cgo nocallback tgpt_score
import "C"

import (
	"context"
	"runtime"
	"unsafe"
)

// A Generator makes flows.
type Generator struct {
	handle     *handle[*C.tgpt_generator]
	shared     *shared
	classes    []string
	engine     string
	maxPackets int
}

// Sampling says how flows are drawn. Begin with DefaultSampling.
type Sampling struct {
	Seed        uint64  // the same seed gives the same flows
	FirstFlow   uint64  // number of the first flow, to cut a long run into calls
	Class       uint32  // index into Classes, or Unknown for flows of any kind
	MinPackets  uint32  // no flow ends before it has as many packets
	MaxPackets  uint32  // most packets of a flow; 0: as many as the model can
	TopK        uint32  // draw from this many most likely tokens; 0: from all
	TopP        float32 // draw from the most likely tokens that reach this probability, in (0, 1]; 1: from all
	Temperature float32 // below 1 the likely becomes likelier; 0 always takes the likeliest

	// Banned tokens do not come: packets' tokens, or the quantizer's number of tokens for the end of a flow, without
	// which all have the most packets.
	Banned []uint32

	// SamplePackets makes a drawn token one of the packets that it stands for, not always the same one, and of the flow's
	// class where the bundle knows what packets each class has. The bundle must know them.
	SamplePackets bool
}

// DefaultSampling draws flows of any kind as the model says.
func DefaultSampling(seed uint64) Sampling {
	return Sampling{Seed: seed, Class: Unknown, TopP: 1, Temperature: 1}
}

// OpenGenerator opens the generator of the bundle at path.
func (c *Context) OpenGenerator(path string) (*Generator, error) {
	bundle := C.CString(path)
	defer C.free(unsafe.Pointer(bundle))
	var out *C.tgpt_generator
	err := c.open(func(context *C.tgpt_context) error {
		var e C.tgpt_error
		return failure(C.tgpt_generator_open(context, bundle, &out, &e), &e)
	})
	if err != nil {
		return nil, err
	}
	classes := make([]string, C.tgpt_generator_n_classes(out))
	for i := range classes {
		classes[i] = C.GoString(C.tgpt_generator_class(out, C.uint32_t(i)))
	}
	return &Generator{
		handle:     newHandle(out, func(p *C.tgpt_generator) { C.tgpt_generator_free(p) }),
		shared:     c.shared,
		classes:    classes,
		engine:     C.GoString(C.tgpt_generator_engine(out)),
		maxPackets: int(C.tgpt_generator_max_packets(out)),
	}, nil
}

// Close frees the generator when the calls on it have returned.
func (g *Generator) Close() error {
	if g.handle.close() {
		g.shared.release()
	}
	return nil
}

// Classes are the names of the classes that flows can be asked for by.
func (g *Generator) Classes() []string { return append([]string(nil), g.classes...) }

// Engine is who runs the network: "native" or "onnx".
func (g *Generator) Engine() string { return g.engine }

// MaxPackets is the most packets that a flow can have.
func (g *Generator) MaxPackets() int { return g.maxPackets }

// Generate draws n flows. A long run is best cut into calls of some thousands by FirstFlow.
func (g *Generator) Generate(n int, sampling Sampling) (Batch, error) {
	if n < 0 || n > 1<<24 {
		return Batch{}, invalid("%d flows asked for; a call gives 0 to %d", n, 1<<24)
	}
	return g.draw(n, sampling, func(p *C.tgpt_generator, w *C.tgpt_worker, s *C.tgpt_sampling, packets []Packet,
		offsets []uint64, e *C.tgpt_error) C.tgpt_status {
		return C.tgpt_generate(p, w, s, C.size_t(n), (*C.tgpt_packet)(memory(packets)), C.size_t(len(packets)),
			(*C.uint64_t)(memory(offsets)), nil, e)
	})
}

// Continue draws flows that begin as those of begun do, and gives them whole: of each the packets given, as they are,
// then those drawn. A flow without packets is a new one.
func (g *Generator) Continue(begun Batch, sampling Sampling) (Batch, error) {
	if err := begun.check(); err != nil {
		return Batch{}, err
	}
	n := begun.Len()
	if n > 1<<24 {
		return Batch{}, invalid("%d flows to continue; a call takes at most %d", n, 1<<24)
	}
	return g.draw(n, sampling, func(p *C.tgpt_generator, w *C.tgpt_worker, s *C.tgpt_sampling, packets []Packet,
		offsets []uint64, e *C.tgpt_error) C.tgpt_status {
		from, at, nFlows := begun.c()
		return C.tgpt_continue(p, w, s, from, at, nFlows, (*C.tgpt_packet)(memory(packets)), C.size_t(len(packets)),
			(*C.uint64_t)(memory(offsets)), nil, e)
	})
}

// A drawing is a call of C that fills packets and offsets.
type drawing func(*C.tgpt_generator, *C.tgpt_worker, *C.tgpt_sampling, []Packet, []uint64, *C.tgpt_error) C.tgpt_status

// draw gives call the room for n flows of the longest kind.
func (g *Generator) draw(n int, sampling Sampling, call drawing) (Batch, error) {
	longest := g.maxPackets
	if sampling.MaxPackets > 0 {
		longest = min(longest, int(sampling.MaxPackets))
	}
	packets, offsets := make([]Packet, n*longest), make([]uint64, n+1)
	s := C.tgpt_sampling{
		type_size:   C.sizeof_tgpt_sampling,
		seed:        C.uint64_t(sampling.Seed),
		first_flow:  C.uint64_t(sampling.FirstFlow),
		class_id:    C.uint32_t(sampling.Class),
		min_packets: C.uint32_t(sampling.MinPackets),
		max_packets: C.uint32_t(sampling.MaxPackets),
		top_k:       C.uint32_t(sampling.TopK),
		top_p:       C.float(sampling.TopP),
		temperature: C.float(sampling.Temperature),
	}
	if sampling.SamplePackets {
		s.flags = C.TGPT_SAMPLE_PACKETS
	}
	// The struct points to memory of Go.
	var pinner runtime.Pinner
	defer pinner.Unpin()
	if len(sampling.Banned) > 0 {
		s.banned, s.n_banned = (*C.uint32_t)(memory(sampling.Banned)), C.uint32_t(len(sampling.Banned))
		pinner.Pin(&sampling.Banned[0])
	}
	err := g.handle.use(func(p *C.tgpt_generator) error {
		return g.shared.withWorker(func(w *C.tgpt_worker) error {
			var e C.tgpt_error
			return failure(call(p, w, &s, packets, offsets, &e), &e)
		})
	})
	if err != nil {
		return Batch{}, err
	}
	return Batch{Packets: packets[:offsets[n]], Offsets: offsets}, nil
}

// GenerateContext does what Generate does, in pieces and for any n. When ctx is done it returns its error, and the flows that
// were drawn until then.
func (g *Generator) GenerateContext(ctx context.Context, n int, sampling Sampling) (Batch, error) {
	if n < 0 {
		return Batch{}, invalid("%d flows asked for", n)
	}
	all := Batch{Offsets: []uint64{0}}
	for done := 0; done < n; done += piece {
		if err := ctx.Err(); err != nil {
			return all, err
		}
		part, err := g.Generate(min(piece, n-done), sampling)
		if err != nil {
			return all, err
		}
		base := uint64(len(all.Packets))
		all.Packets = append(all.Packets, part.Packets...)
		for _, offset := range part.Offsets[1:] {
			all.Offsets = append(all.Offsets, base+offset)
		}
		sampling.FirstFlow += piece
	}
	return all, nil
}

// Score gives, for each flow, the mean negative log-likelihood of its packets in nats: how unlike what the model would
// generate it is. class is an index into Classes, or Unknown to score flows as those of any kind.
func (g *Generator) Score(class uint32, batch Batch) ([]float32, error) {
	if err := batch.check(); err != nil {
		return nil, err
	}
	scores := make([]float32, batch.Len())
	err := g.handle.use(func(p *C.tgpt_generator) error {
		return g.shared.withWorker(func(w *C.tgpt_worker) error {
			packets, offsets, n := batch.c()
			var e C.tgpt_error
			return failure(C.tgpt_score(p, w, C.uint32_t(class), packets, offsets, n, (*C.float)(memory(scores)), &e), &e)
		})
	})
	if err != nil {
		return nil, err
	}
	return scores, nil
}

// ScoreContext does what Score does, in pieces. When ctx is done it returns its error, and the scores of the flows until
// then.
func (g *Generator) ScoreContext(ctx context.Context, class uint32, batch Batch) ([]float32, error) {
	scores := make([]float32, 0, batch.Len())
	err := batch.pieces(ctx, func(part Batch) error {
		some, err := g.Score(class, part)
		scores = append(scores, some...)
		return err
	})
	return scores, err
}
