package trafficgpt

// #include <trafficgpt.h>
import "C"

import (
	"context"
	"errors"
	"fmt"
	"unsafe"
)

// Unknown is the label of a flow that the classifier does not know, and the class that asks for flows of any kind.
const Unknown uint32 = C.TGPT_UNKNOWN

// A Packet is one packet of a flow.
type Packet struct {
	Size int32   // IP packet length in bytes: positive from client to server, negative from server to client
	IPT  float32 // microseconds since the flow's previous packet; 0 for the first
}

// Packets go to C as they are.
var _ = [1]struct{}{}[unsafe.Sizeof(Packet{})-unsafe.Sizeof(C.tgpt_packet{})]

// A Batch holds flows of different lengths: flow i is Packets[Offsets[i]:Offsets[i+1]]. The zero value holds none.
type Batch struct {
	Packets []Packet
	Offsets []uint64
}

// Len is the number of flows.
func (b *Batch) Len() int {
	return max(len(b.Offsets)-1, 0)
}

// Append adds a flow.
func (b *Batch) Append(flow ...Packet) {
	if len(b.Offsets) == 0 {
		b.Offsets = append(b.Offsets, 0)
	}
	b.Packets = append(b.Packets, flow...)
	b.Offsets = append(b.Offsets, uint64(len(b.Packets)))
}

// Reset forgets all flows and keeps the memory.
func (b *Batch) Reset() {
	b.Packets, b.Offsets = b.Packets[:0], b.Offsets[:0]
}

// Flow is flow i; it shares the batch's memory.
func (b *Batch) Flow(i int) []Packet {
	begin, end := b.Offsets[i], b.Offsets[i+1]
	return b.Packets[begin:end:end]
}

// check finds what C cannot: offsets past the packets. The rest is checked there.
func (b *Batch) check() error {
	if n := len(b.Offsets); n > 0 && b.Offsets[n-1] > uint64(len(b.Packets)) {
		return invalid("offsets end at %d, past the %d packets", b.Offsets[n-1], len(b.Packets))
	}
	return nil
}

// piece is the number of flows between two looks at a context: some milliseconds to a tenth of a second.
const piece = 256

// pieces calls f with one piece after another until f fails or ctx is done.
func (b *Batch) pieces(ctx context.Context, f func(part Batch) error) error {
	if err := b.check(); err != nil {
		return err
	}
	var offsets [piece + 1]uint64
	for begin := 0; begin < b.Len(); begin += piece {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(piece, b.Len()-begin)
		part, err := b.part(begin, n, offsets[:n+1])
		if err != nil {
			return err
		}
		if err := f(part); err != nil {
			return from(begin, err)
		}
	}
	return nil
}

// from says in an error which flows it counts: it knows only those of a piece.
func from(begin int, err error) error {
	var of *Error
	if begin > 0 && errors.As(err, &of) {
		return &Error{of.Status, fmt.Sprintf("counting flows from flow %d on: %s", begin, of.Message)}
	}
	return err
}

// part is n flows from one on, without copying packets; the offsets that say where they lie are written to offsets. Errors
// name the flow by its number in b.
func (b *Batch) part(begin, n int, offsets []uint64) (Batch, error) {
	if first := b.Offsets[0]; first != 0 {
		return Batch{}, invalid("offsets begin with %d, not with 0", first)
	}
	base := b.Offsets[begin]
	for i := range offsets {
		offset := b.Offsets[begin+i]
		if i > 0 && offset < base+offsets[i-1] || offset > uint64(len(b.Packets)) {
			return Batch{}, invalid("flow %d: its offsets fall, or end past the packets", begin+i-1)
		}
		offsets[i] = offset - base
	}
	return Batch{Packets: b.Packets[base : base+offsets[n]], Offsets: offsets}, nil
}

// c gives the batch's memory as C takes it, for the length of one call.
func (b *Batch) c() (*C.tgpt_packet, *C.uint64_t, C.size_t) {
	return (*C.tgpt_packet)(memory(b.Packets)), (*C.uint64_t)(memory(b.Offsets)), C.size_t(b.Len())
}

// memory is where a slice lies.
func memory[T any](slice []T) unsafe.Pointer {
	return unsafe.Pointer(unsafe.SliceData(slice))
}
