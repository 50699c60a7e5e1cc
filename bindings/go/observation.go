package trafficgpt

// #include <trafficgpt.h>
import "C"

import (
	"net/netip"
	"time"
	"unsafe"
)

// An Observation is one packet as the data path saw it. It has the layout of C's, so that slices of it are handed over as
// they are.
//
// A flow is all packets between the same two ends (address and port), with the same protocol and zone, whoever sends; the
// client is who sent its first.
type Observation struct {
	TimeNS   uint64   // when it was seen, in nanoseconds of any clock that all packets of the table share
	Src, Dst [16]byte // sender and receiver: netip.Addr.As16 gives this form, also of IPv4
	SrcPort  uint16   // 0 where the protocol has none
	DstPort  uint16
	Size     uint32 // length of the IP packet in bytes
	Zone     uint32 // a tenant, VLAN or VRF whose addresses others may use too; 0 where there is one
	Protocol uint8  // 6 is TCP, 17 is UDP
	TCPFlags uint8  // FIN is the lowest bit; 0 of other protocols
	_        [10]byte
}

// FrameInfo is what a data path knows of a frame besides its bytes.
type FrameInfo struct {
	TimeNS   uint64 // when it was seen, on the packets' clock
	Captured uint32 // bytes of it that are there; the headers are enough
	Length   uint32 // on the wire, not less than Captured
}

// A Reason is why a verdict was given. New ones may come.
type Reason uint8

// The reasons of the C library.
const (
	ReasonCount     Reason = C.TGPT_REASON_COUNT     // the flow reached one of the packet counts
	ReasonConfident Reason = C.TGPT_REASON_CONFIDENT // it reached one, and the probability the threshold
	ReasonTCPEnd    Reason = C.TGPT_REASON_TCP_END   // its connection is over
	ReasonIdle      Reason = C.TGPT_REASON_IDLE      // no packet came for the idle timeout
	ReasonActive    Reason = C.TGPT_REASON_ACTIVE    // the active timeout passed since its first packet
	ReasonEvicted   Reason = C.TGPT_REASON_EVICTED   // it gave way to a new flow in a full table
	ReasonFlushed   Reason = C.TGPT_REASON_FLUSHED   // the table was flushed
)

// String is one word for the reason.
func (r Reason) String() string {
	words := [...]string{"", "count", "confident", "closed", "idle", "active", "evicted", "flushed"}
	if r == 0 || int(r) >= len(words) {
		return "other"
	}
	return words[r]
}

// A FlowVerdict is what a table says of a flow. It has the layout of C's.
type FlowVerdict struct {
	ClientAddr, ServerAddr [16]byte // see Client and Server
	StartNS                uint64   // time of the flow's first packet
	LastNS                 uint64   // the latest time of its packets so far
	Packets                uint32   // so far; stays at the largest number there is
	Zone                   uint32   // the observations'
	Label                  uint32   // what Flows.Name has a name for, or Unknown
	Probability            float32  // of the most probable label, also where that was not enough
	Epoch                  uint32   // which classifier's label it is: 0 for the first, or what Swap gave
	ClientPort, ServerPort uint16
	Protocol               uint8
	IPVersion              uint8 // 4 or 6
	Reason                 Reason
	IsFinal                uint8 // 1 if no other verdict of this flow will come, else 0
	Read                   uint8 // the label rests on this many of the flow's packets, its first
	_                      [3]byte
}

// Client is the end that sent the first packet.
func (v *FlowVerdict) Client() netip.AddrPort { return v.end(v.ClientAddr, v.ClientPort) }

// Server is the other end.
func (v *FlowVerdict) Server() netip.AddrPort { return v.end(v.ServerAddr, v.ServerPort) }

// Final tells that no other verdict of this flow will come.
func (v *FlowVerdict) Final() bool { return v.IsFinal != 0 }

// Start is the time of the first packet, where the packets' clock counts from 1970.
func (v *FlowVerdict) Start() time.Time { return time.Unix(0, int64(v.StartNS)).UTC() }

// Last is the latest time of the packets so far.
func (v *FlowVerdict) Last() time.Time { return time.Unix(0, int64(v.LastNS)).UTC() }

func (v *FlowVerdict) end(address [16]byte, port uint16) netip.AddrPort {
	a := netip.AddrFrom16(address)
	if v.IPVersion == 4 {
		a = a.Unmap()
	}
	return netip.AddrPortFrom(a, port)
}

// That each struct is C's, field by field: an array's index must be 0, or this does not compile.
var (
	_ = [1]struct{}{}[unsafe.Sizeof(Observation{})-unsafe.Sizeof(C.tgpt_observation{})]
	_ = [1]struct{}{}[unsafe.Offsetof(Observation{}.Src)-unsafe.Offsetof(C.tgpt_observation{}.src)]
	_ = [1]struct{}{}[unsafe.Offsetof(Observation{}.Dst)-unsafe.Offsetof(C.tgpt_observation{}.dst)]
	_ = [1]struct{}{}[unsafe.Offsetof(Observation{}.SrcPort)-unsafe.Offsetof(C.tgpt_observation{}.src_port)]
	_ = [1]struct{}{}[unsafe.Offsetof(Observation{}.DstPort)-unsafe.Offsetof(C.tgpt_observation{}.dst_port)]
	_ = [1]struct{}{}[unsafe.Offsetof(Observation{}.Size)-unsafe.Offsetof(C.tgpt_observation{}.size)]
	_ = [1]struct{}{}[unsafe.Offsetof(Observation{}.Zone)-unsafe.Offsetof(C.tgpt_observation{}.zone)]
	_ = [1]struct{}{}[unsafe.Offsetof(Observation{}.Protocol)-unsafe.Offsetof(C.tgpt_observation{}.protocol)]
	_ = [1]struct{}{}[unsafe.Offsetof(Observation{}.TCPFlags)-unsafe.Offsetof(C.tgpt_observation{}.tcp_flags)]

	_ = [1]struct{}{}[unsafe.Sizeof(FrameInfo{})-unsafe.Sizeof(C.tgpt_frame_info{})]
	_ = [1]struct{}{}[unsafe.Offsetof(FrameInfo{}.Captured)-unsafe.Offsetof(C.tgpt_frame_info{}.captured)]
	_ = [1]struct{}{}[unsafe.Offsetof(FrameInfo{}.Length)-unsafe.Offsetof(C.tgpt_frame_info{}.wire_len)]

	_ = [1]struct{}{}[unsafe.Sizeof(FlowVerdict{})-unsafe.Sizeof(C.tgpt_verdict{})]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.ServerAddr)-unsafe.Offsetof(C.tgpt_verdict{}.server)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.StartNS)-unsafe.Offsetof(C.tgpt_verdict{}.start_ns)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.LastNS)-unsafe.Offsetof(C.tgpt_verdict{}.last_ns)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.Packets)-unsafe.Offsetof(C.tgpt_verdict{}.n_packets)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.Zone)-unsafe.Offsetof(C.tgpt_verdict{}.zone)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.Label)-unsafe.Offsetof(C.tgpt_verdict{}.label)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.Probability)-unsafe.Offsetof(C.tgpt_verdict{}.score)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.Epoch)-unsafe.Offsetof(C.tgpt_verdict{}.epoch)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.ClientPort)-unsafe.Offsetof(C.tgpt_verdict{}.client_port)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.ServerPort)-unsafe.Offsetof(C.tgpt_verdict{}.server_port)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.Protocol)-unsafe.Offsetof(C.tgpt_verdict{}.protocol)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.IPVersion)-unsafe.Offsetof(C.tgpt_verdict{}.ip_version)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.Reason)-unsafe.Offsetof(C.tgpt_verdict{}.reason)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.IsFinal)-unsafe.Offsetof(C.tgpt_verdict{}.is_final)]
	_ = [1]struct{}{}[unsafe.Offsetof(FlowVerdict{}.Read)-unsafe.Offsetof(C.tgpt_verdict{}.n_read)]
)
