package trafficgpt

// #include <stdint.h>
// #include <trafficgpt.h>
// #cgo noescape tgpt_flows_push
// #cgo nocallback tgpt_flows_push
// #cgo noescape push_contiguous
// #cgo nocallback push_contiguous
// #cgo noescape tgpt_flows_poll
// #cgo nocallback tgpt_flows_poll
//
// /* Frames that lie one after another, in chunks whose pointers fit on the stack: Go may not hand over an array of Go
//  * pointers, and making it here costs no allocation and no pinning. */
// static tgpt_status push_contiguous(tgpt_flows *flows, uint32_t link_type, const uint8_t *bytes,
//                                    const tgpt_frame_info *infos, size_t n, tgpt_error *error) {
//   const uint8_t *frames[256];
//   do {
//     const size_t chunk = n < 256 ? n : 256;
//     size_t i;
//     for (i = 0; i < chunk; ++i) {
//       frames[i] = bytes;
//       bytes += infos[i].captured;
//     }
//     const tgpt_status status = tgpt_flows_push_frames(flows, link_type, frames, infos, chunk, error);
//     if (status != TGPT_OK) return status;
//     infos += chunk;
//     n -= chunk;
//   } while (n > 0);
//   return TGPT_OK;
// }
import "C"

import (
	"context"
	"encoding/json"
	"iter"
	"slices"
	"sync"
	"time"
)

// LinkEthernet is the link type of Ethernet frames, by the tcpdump group's registry, and LinkRaw that of bare IP packets.
const (
	LinkEthernet uint32 = 1
	LinkRaw      uint32 = 101
)

// Flows is the streaming table of a data path: packets in, verdicts out. Make one per core or queue, and send both
// directions of a flow to the same one; trafficgpt.h has the rules by which flows end and verdicts are given.
//
// Push, PushFrames, Poll, Verdicts and Flush are for one goroutine at a time: a second one gets [ErrBusy]. The other
// methods are for any, at any time. All memory of the table is taken when it is made, outside Go's heap.
type Flows struct {
	handle *handle[*C.tgpt_flows]

	mu     sync.RWMutex
	labels []labelsSince
}

// labelsSince are the labels of the verdicts from an epoch on.
type labelsSince struct {
	epoch  uint32
	labels []string
}

// Stats are what a table has counted, as of the last push or poll.
type Stats struct {
	Packets           uint64 `json:"packets"`              // pushed, as observations or in frames
	Bytes             uint64 `json:"bytes"`                // their lengths added up
	FramesSkipped     uint64 `json:"frames_skipped"`       // frames whose packet is in no flow
	PacketsBackInTime uint64 `json:"packets_back_in_time"` // older than their flow's latest
	PacketsRefused    uint64 `json:"packets_refused"`      // of new flows for which there was no room
	Flows             uint64 `json:"flows"`                // begun
	FlowsEndedIdle    uint64 `json:"flows_ended_idle"`
	FlowsEndedActive  uint64 `json:"flows_ended_active"`
	FlowsEndedTCP     uint64 `json:"flows_ended_tcp"` // by a new connection on the ends of one that was over
	FlowsEvicted      uint64 `json:"flows_evicted"`
	FlowsFlushed      uint64 `json:"flows_flushed"`
	FlowsTooShort     uint64 `json:"flows_too_short"` // ended with too few packets for a verdict
	VerdictsLost      uint64 `json:"verdicts_lost"`   // of flows evicted while too many waited for theirs
	Verdicts          uint64 `json:"verdicts"`
	VerdictsFinal     uint64 `json:"verdicts_final"`
	Tokens            uint64 `json:"tokens"` // packets made into tokens
	Swaps             uint64 `json:"swaps"`
	FlowsTracked      uint64 `json:"flows_tracked"` // now
	FlowsDue          uint64 `json:"flows_due"`     // now
	Epoch             uint64 `json:"epoch"`         // which classifier new flows are given to
	MaxFlows          uint64 `json:"max_flows"`
	Memory            uint64 `json:"memory"` // bytes
}

// NewFlows makes a table whose flows this classifier tells apart; the classifier may be closed before it. settings may be
// nil; those that begin with "flows." say how large the table is and when a verdict is given.
func (c *Classifier) NewFlows(settings Settings) (*Flows, error) {
	var made *Flows
	err := c.handle.use(func(classifier *C.tgpt_classifier) error {
		return settings.use(func(config *C.tgpt_config) error {
			var out *C.tgpt_flows
			var e C.tgpt_error
			if err := failure(C.tgpt_flows_new(classifier, config, &out, &e), &e); err != nil {
				return err
			}
			made = &Flows{
				handle: newHandle(out, func(p *C.tgpt_flows) { C.tgpt_flows_free(p) }),
				labels: []labelsSince{{0, c.labels}},
			}
			return nil
		})
	})
	return made, err
}

// Close frees the table, with the flows in it, when the calls on it have returned. Flush and poll it first to get their
// verdicts.
func (f *Flows) Close() error {
	f.handle.close()
	return nil
}

// Push takes packets that the caller has parsed, in the order in which they were seen. Bursts of 32 or more are fastest.
// Every packet is taken: new flows for which there is no room are counted, not reported. It allocates nothing.
func (f *Flows) Push(observations []Observation) error {
	return f.handle.use(func(p *C.tgpt_flows) error {
		var e C.tgpt_error
		return failure(C.tgpt_flows_push(p, (*C.tgpt_observation)(memory(observations)), C.size_t(len(observations)),
			&e), &e)
	})
}

// PushFrames takes frames as they came from the wire, in the order in which they were seen; the library finds the IP
// packet in them. The frames lie one after another in bytes, and infos tells how long each is. Frames without an IP packet
// that can be read are counted, not reported. It allocates nothing.
func (f *Flows) PushFrames(linkType uint32, bytes []byte, infos []FrameInfo) error {
	var total uint64
	for i := range infos {
		total += uint64(infos[i].Captured)
	}
	if total != uint64(len(bytes)) {
		return invalid("infos tell of %d bytes, there are %d", total, len(bytes))
	}
	return f.handle.use(func(p *C.tgpt_flows) error {
		var e C.tgpt_error
		return failure(C.push_contiguous(p, C.uint32_t(linkType), (*C.uint8_t)(memory(bytes)),
			(*C.tgpt_frame_info)(memory(infos)), C.size_t(len(infos)), &e), &e)
	})
}

// Due is the number of flows that are due for a verdict, as of the last push or poll.
func (f *Flows) Due() int {
	due := 0
	_ = f.handle.use(func(p *C.tgpt_flows) error {
		due = int(C.tgpt_flows_due(p))
		return nil
	})
	return due
}

// Poll ends flows whose time is over, runs the network over flows that are due, and writes their verdicts to out, in the
// order in which the flows became due. It returns their number: less than len(out) means that no flow is due any more.
// The network runs on the calling thread, and len(out) bounds how long.
//
// nowNS is the time, on the packets' clock, up to which all packets have been pushed; 0 takes the packets' own.
func (f *Flows) Poll(nowNS uint64, out []FlowVerdict) (int, error) {
	var n C.size_t
	err := f.handle.use(func(p *C.tgpt_flows) error {
		var e C.tgpt_error
		return failure(C.tgpt_flows_poll(p, C.uint64_t(nowNS), (*C.tgpt_verdict)(memory(out)), C.size_t(len(out)), &n,
			&e), &e)
	})
	return int(n), err
}

// Verdicts polls until no flow is due. Between polls it looks at ctx; an error ends it and comes last. A verdict's memory
// is used again for the next ones: copy what is kept.
func (f *Flows) Verdicts(ctx context.Context, nowNS uint64) iter.Seq2[*FlowVerdict, error] {
	return func(yield func(*FlowVerdict, error) bool) {
		out := make([]FlowVerdict, 64)
		for n := len(out); n == len(out); {
			err := ctx.Err()
			if err == nil {
				n, err = f.Poll(nowNS, out)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			for i := range out[:n] {
				if !yield(&out[i], nil) {
					return
				}
			}
		}
	}
}

// Swap gives the table another classifier, while packets flow; no packet and no verdict is lost. It returns the epoch that
// the verdicts of this classifier will carry.
func (f *Flows) Swap(classifier *Classifier) (uint32, error) {
	// A verdict of the new epoch may come before the labels are known here; Name waits for them.
	f.mu.Lock()
	defer f.mu.Unlock()
	var epoch C.uint32_t
	err := f.handle.use(func(p *C.tgpt_flows) error {
		return classifier.handle.use(func(c *C.tgpt_classifier) error {
			var e C.tgpt_error
			return failure(C.tgpt_flows_swap(p, c, &epoch, &e), &e)
		})
	})
	if err != nil {
		return 0, err
	}
	if !slices.Equal(f.labels[len(f.labels)-1].labels, classifier.labels) {
		f.labels = append(f.labels, labelsSince{uint32(epoch), classifier.labels})
	}
	return uint32(epoch), nil
}

// Name is the name of a verdict's label, or "unknown".
func (f *Flows) Name(verdict *FlowVerdict) string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for i := len(f.labels) - 1; i >= 0; i-- {
		if since := f.labels[i]; since.epoch <= verdict.Epoch {
			if int(verdict.Label) < len(since.labels) {
				return since.labels[verdict.Label]
			}
			break
		}
	}
	return "unknown"
}

// Flush ends every flow: the polls after it give their final verdicts.
func (f *Flows) Flush() error {
	return f.handle.use(func(p *C.tgpt_flows) error {
		var e C.tgpt_error
		return failure(C.tgpt_flows_flush(p, &e), &e)
	})
}

// Stats are what the table has counted.
func (f *Flows) Stats() (Stats, error) {
	text := make([]byte, 1024)
	var needed C.size_t
	err := f.handle.use(func(p *C.tgpt_flows) error {
		for {
			var e C.tgpt_error
			status := C.tgpt_flows_stats(p, (*C.char)(memory(text)), C.size_t(len(text)), &needed, &e)
			if status != C.TGPT_E_NOSPACE {
				return failure(status, &e)
			}
			// The counts may have grown by a digit each until the next call.
			text = make([]byte, 2*needed)
		}
	})
	if err != nil {
		return Stats{}, err
	}
	var stats Stats
	if err := json.Unmarshal(text[:needed-1], &stats); err != nil {
		return Stats{}, &Error{ErrFormat, "the table's statistics: " + err.Error()}
	}
	return stats, nil
}

// NS is a time on a clock that counts nanoseconds from 1970, as observations and Poll take it.
func NS(t time.Time) uint64 { return uint64(t.UnixNano()) }
