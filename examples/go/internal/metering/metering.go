// Package metering makes flows of frames where they are captured, so that others may classify them: of each flow its first
// packets, by the rules of the library's own table (trafficgpt.h). It looks at the outermost IP packet. Fragments
// join the flow that their first one names.
package metering

import (
	"encoding/binary"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"trafficgpt"
)

// Options say when a flow ends.
type Options struct {
	Packets  int // of a flow that are kept; with them it is ready
	MaxFlows int // tracked at once; of more, the new ones are refused
	Idle     time.Duration
	Active   time.Duration
}

// A Flow is ready to be classified.
type Flow struct {
	Client, Server         [16]byte
	StartNS, LastNS        uint64
	Count                  uint64 // of packets so far; Packets has the first of them
	ClientPort, ServerPort uint16
	Protocol               uint8
	Reason                 trafficgpt.Reason
	Packets                []trafficgpt.Packet
}

// Stats count what became of the packets.
type Stats struct{ Packets, Skipped, Refused, Flows, Ready, TooShort uint64 }

// A Meter tracks flows. It is for one goroutine.
type Meter struct {
	Stats   Stats
	options Options
	ready   func(*Flow)
	flows   map[key]*tracked
	swept   uint64
	first   map[fragment][2]uint16 // ports that first fragments named

	parser   *gopacket.DecodingLayerParser
	decoded  []gopacket.LayerType
	ethernet layers.Ethernet
	vlan     layers.Dot1Q
	ip4      layers.IPv4
	ip6      layers.IPv6
}

// An end is one side of a flow.
type end struct {
	address [16]byte
	port    uint16
}

// A key is the same for both directions.
type key struct {
	low, high end
	protocol  uint8
}

// A fragment is told from others by this.
type fragment struct {
	src, dst [16]byte
	id       uint32
	protocol uint8
}

type tracked struct {
	Flow
	client   end
	fins     uint8 // bit 0: of the client, bit 1: of the server
	closed   bool
	reported bool
}

// New makes a meter that calls ready with every flow of two packets or more, once. The flow is ready's to keep.
func New(options Options, linkType uint32, ready func(*Flow)) *Meter {
	m := &Meter{options: options, ready: ready, flows: map[key]*tracked{}, first: map[fragment][2]uint16{}}
	first := layers.LayerTypeEthernet
	if linkType == trafficgpt.LinkRaw {
		first = layers.LayerTypeIPv4
	}
	m.parser = gopacket.NewDecodingLayerParser(first, &m.ethernet, &m.vlan, &m.ip4, &m.ip6)
	m.parser.IgnoreUnsupported = true
	return m
}

// Push takes a frame.
func (m *Meter) Push(frame []byte, info trafficgpt.FrameInfo) {
	m.Stats.Packets++
	var o trafficgpt.Observation
	if !m.parse(frame, &o) {
		m.Stats.Skipped++
		return
	}
	o.TimeNS = info.TimeNS
	src, dst := end{o.Src, o.SrcPort}, end{o.Dst, o.DstPort}
	k := key{src, dst, o.Protocol}
	if less(dst, src) {
		k.low, k.high = dst, src
	}
	t := m.flows[k]
	if t != nil {
		if reason := m.over(t, &o); reason != 0 {
			m.finish(k, t, reason)
			t = nil
		}
	}
	if t == nil {
		if len(m.flows) >= m.options.MaxFlows {
			m.Stats.Refused++
			return
		}
		t = &tracked{client: src, Flow: Flow{Client: o.Src, Server: o.Dst, ClientPort: o.SrcPort, ServerPort: o.DstPort,
			Protocol: o.Protocol, StartNS: o.TimeNS, LastNS: o.TimeNS}}
		m.flows[k] = t
		m.Stats.Flows++
	}
	m.add(t, &o, src == t.client)
}

func less(a, b end) bool {
	for i := range a.address {
		if a.address[i] != b.address[i] {
			return a.address[i] < b.address[i]
		}
	}
	return a.port < b.port
}

const (
	fin, syn, rst, ack = 1, 2, 4, 16
	protocolTCP        = 6
)

// over tells why the flow ended before o, if it did.
func (m *Meter) over(t *tracked, o *trafficgpt.Observation) trafficgpt.Reason {
	switch now := max(o.TimeNS, t.LastNS); {
	case now-t.LastNS >= uint64(m.options.Idle):
		return trafficgpt.ReasonIdle
	case o.TimeNS > t.StartNS && o.TimeNS-t.StartNS >= uint64(m.options.Active):
		return trafficgpt.ReasonActive
	case t.closed && o.TCPFlags&(syn|ack) == syn:
		return trafficgpt.ReasonTCPEnd
	}
	return 0
}

func (m *Meter) add(t *tracked, o *trafficgpt.Observation, fromClient bool) {
	now := max(o.TimeNS, t.LastNS)
	since := now - t.LastNS
	t.LastNS = now
	t.Count++
	if !t.reported && !t.closed && len(t.Packets) < m.options.Packets {
		size := int32(o.Size)
		if !fromClient {
			size = -size
		}
		t.Packets = append(t.Packets, trafficgpt.Packet{Size: size, IPT: float32(float64(since) / 1000)})
		if len(t.Packets) == m.options.Packets {
			m.report(t, trafficgpt.ReasonCount)
		}
	}
	if o.Protocol == protocolTCP && o.TCPFlags&(fin|rst) != 0 && !t.closed {
		if o.TCPFlags&fin != 0 {
			side := uint8(2)
			if fromClient {
				side = 1
			}
			t.fins |= side
		}
		if o.TCPFlags&rst != 0 || t.fins == 3 {
			t.closed = true
			if t.Count >= 2 {
				m.report(t, trafficgpt.ReasonTCPEnd)
			}
		}
	}
}

func (m *Meter) report(t *tracked, reason trafficgpt.Reason) {
	if t.reported {
		return
	}
	t.reported = true
	m.Stats.Ready++
	t.Reason = reason
	flow := t.Flow
	t.Packets = nil
	m.ready(&flow)
}

// finish ends a flow.
func (m *Meter) finish(k key, t *tracked, reason trafficgpt.Reason) {
	if t.Count >= 2 {
		m.report(t, reason)
	} else {
		m.Stats.TooShort++
	}
	delete(m.flows, k)
}

// linger is how long a connection that is over keeps its place for what trails it.
const linger = 5 * time.Second

// Sweep ends flows whose time is over at nowNS. It looks at all of them, every eighth of the idle timeout.
func (m *Meter) Sweep(nowNS uint64) {
	if nowNS < m.swept+uint64(m.options.Idle)/8 {
		return
	}
	m.swept = nowNS
	for k, t := range m.flows {
		idle := nowNS - min(nowNS, t.LastNS)
		switch {
		case idle >= uint64(m.options.Idle):
			m.finish(k, t, trafficgpt.ReasonIdle)
		case nowNS-min(nowNS, t.StartNS) >= uint64(m.options.Active):
			m.finish(k, t, trafficgpt.ReasonActive)
		case t.closed && idle >= uint64(linger):
			m.finish(k, t, trafficgpt.ReasonTCPEnd)
		}
	}
}

// Flush ends every flow.
func (m *Meter) Flush() {
	for k, t := range m.flows {
		m.finish(k, t, trafficgpt.ReasonFlushed)
	}
}

// parse finds the ends, size and flags of a frame's IP packet.
func (m *Meter) parse(frame []byte, o *trafficgpt.Observation) bool {
	// A frame that is cut has its headers all the same; what could be read of it counts.
	_ = m.parser.DecodeLayers(frame, &m.decoded)
	found := false
	for _, layer := range m.decoded {
		switch layer {
		case layers.LayerTypeIPv4:
			if len(m.ip4.SrcIP) != 4 || m.ip4.Length == 0 {
				return false
			}
			o.Src, o.Dst = mapped(m.ip4.SrcIP), mapped(m.ip4.DstIP)
			o.Protocol, o.Size, found = uint8(m.ip4.Protocol), uint32(m.ip4.Length), true
			m.transport(o, m.ip4.Payload, uint32(m.ip4.Id), m.ip4.FragOffset, m.ip4.Flags&layers.IPv4MoreFragments != 0)
		case layers.LayerTypeIPv6:
			copy(o.Src[:], m.ip6.SrcIP)
			copy(o.Dst[:], m.ip6.DstIP)
			o.Protocol, o.Size, found = uint8(m.ip6.NextHeader), 40+uint32(m.ip6.Length), true
			payload := m.ip6.Payload
			if m.ip6.HopByHop != nil {
				o.Protocol, payload = uint8(m.ip6.HopByHop.NextHeader), m.ip6.HopByHop.Payload
			}
			m.extensions(o, payload)
		}
	}
	return found
}

// extensions goes through the headers between that of IPv6 and the transport's.
func (m *Meter) extensions(o *trafficgpt.Observation, payload []byte) {
	for len(payload) >= 8 {
		switch layers.IPProtocol(o.Protocol) {
		case layers.IPProtocolIPv6Routing, layers.IPProtocolIPv6Destination:
			o.Protocol, payload = payload[0], payload[min(8+8*int(payload[1]), len(payload)):]
		case layers.IPProtocolIPv6Fragment:
			position := binary.BigEndian.Uint16(payload[2:])
			o.Protocol = payload[0]
			m.transport(o, payload[8:], binary.BigEndian.Uint32(payload[4:]), position>>3, position&1 != 0)
			return
		default:
			m.transport(o, payload, 0, 0, false)
			return
		}
	}
}

// transport reads ports and flags, or gives a fragment the ports that the first one of its packet named.
func (m *Meter) transport(o *trafficgpt.Observation, payload []byte, id uint32, offset uint16, more bool) {
	switch o.Protocol {
	case protocolTCP, 17, 33, 132, 136: // with UDP, DCCP, SCTP and UDP-Lite
	default:
		return
	}
	k := fragment{o.Src, o.Dst, id, o.Protocol}
	if offset != 0 {
		ports := m.first[k]
		o.SrcPort, o.DstPort = ports[0], ports[1]
		return
	}
	if len(payload) < 4 {
		return
	}
	o.SrcPort, o.DstPort = binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])
	if o.Protocol == protocolTCP && len(payload) >= 14 {
		o.TCPFlags = payload[13]
	}
	if more {
		// Few are on their way at a time. Who sends more than this has others' forgotten.
		if len(m.first) >= 4096 {
			clear(m.first)
		}
		m.first[k] = [2]uint16{o.SrcPort, o.DstPort}
	}
}

func mapped(four []byte) (sixteen [16]byte) {
	sixteen[10], sixteen[11] = 0xff, 0xff
	copy(sixteen[12:], four)
	return sixteen
}
