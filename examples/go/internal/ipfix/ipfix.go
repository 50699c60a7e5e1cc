// Package ipfix writes flows and their labels as IPFIX (RFC 7011), for collectors that know nothing of this library: over
// UDP or TCP, or to a file (RFC 5655).
package ipfix

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"time"

	"trafficgpt-examples/internal/record"
)

// A field of a template: information element and length, by IANA's registry.
type field struct{ element, length uint16 }

const (
	variable = 0xffff
	// enterprise is the number reserved for documentation (RFC 5612): put your own here.
	enterprise = 32473
	// probability is that enterprise's element 1: float32, of the label.
	probability = 0x8000 | 1

	templateSet = 2
	template4   = 256
	template6   = 257

	// A message fits into a datagram on any path that carries Ethernet.
	longest = 1400
)

// fields are those of a flow between addresses of the elements and length given.
func fields(source, destination, length uint16) []field {
	return []field{
		{152, 8},              // flowStartMilliseconds
		{153, 8},              // flowEndMilliseconds
		{source, length},      // sourceIPv4Address or sourceIPv6Address: the client
		{destination, length}, // destination…: the server
		{7, 2},                // sourceTransportPort
		{11, 2},               // destinationTransportPort
		{4, 1},                // protocolIdentifier
		{136, 1},              // flowEndReason
		{86, 8},               // packetTotalCount, of both directions
		{96, variable},        // applicationName: the label
		{probability, 4},
	}
}

// A Writer sends flows to one collector.
type Writer struct {
	kind    string
	dial    func() (io.WriteCloser, error)
	out     io.WriteCloser // nil where the connection was lost
	domain  uint32
	sent    uint32 // records, as the sequence number wants it
	records [2][]byte
	waiting [2]uint32
	started bool
}

// Open opens "udp:HOST:PORT", "tcp:HOST:PORT" or "file:PATH". domain is the observation domain that the flows are of.
func Open(target string, domain uint32) (*Writer, error) {
	kind, rest, _ := strings.Cut(target, ":")
	w := &Writer{kind: kind, domain: domain}
	switch kind {
	case "udp", "tcp":
		w.dial = func() (io.WriteCloser, error) { return net.DialTimeout(kind, rest, 5*time.Second) }
	case "file":
		w.dial = func() (io.WriteCloser, error) { return os.Create(rest) }
	default:
		return nil, fmt.Errorf("%q is no place for IPFIX: udp:HOST:PORT, tcp:HOST:PORT or file:PATH", target)
	}
	var err error
	w.out, err = w.dial()
	return w, err
}

// Write takes a flow; it is sent when a message is full, or by Flush.
func (w *Writer) Write(r *record.Record) error {
	version := 0
	if !r.Client.Addr().Is4() {
		version = 1
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(r.Start.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, uint64(r.End.UnixMilli()))
	b = append(b, r.Client.Addr().AsSlice()...)
	b = append(b, r.Server.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, r.Client.Port())
	b = binary.BigEndian.AppendUint16(b, r.Server.Port())
	b = append(b, r.Protocol, endReason(r.Reason))
	b = binary.BigEndian.AppendUint64(b, r.Packets)
	label := r.Label[:min(len(r.Label), 254)]
	b = append(b, byte(len(label)))
	b = append(b, label...)
	b = binary.BigEndian.AppendUint32(b, math.Float32bits(r.Probability))
	if len(w.records[0])+len(w.records[1])+len(b)+200 > longest {
		if err := w.Flush(); err != nil {
			return err
		}
	}
	w.records[version] = append(w.records[version], b...)
	w.waiting[version]++
	return nil
}

// endReason is the flowEndReason of a verdict's. A flow whose label is sure before it ends counts as cut by the meter.
func endReason(reason string) byte {
	switch reason {
	case "idle":
		return 1
	case "active":
		return 2
	case "closed":
		return 3
	case "evicted":
		return 5
	default:
		return 4
	}
}

// Flush sends what waits. Over UDP the templates go with every message, as any may be lost; else with the first. A
// connection that is lost is made anew for the next message; the flows of this one are lost too.
func (w *Writer) Flush() error {
	if w.waiting == [2]uint32{} {
		return nil
	}
	message := w.message()
	if w.out == nil {
		out, err := w.dial()
		if err != nil {
			return err
		}
		w.out = out
	}
	_, err := w.out.Write(message)
	if err != nil && w.kind == "tcp" {
		w.out.Close()
		w.out, w.started = nil, false
	}
	return err
}

// message is what waits, which then does so no longer.
func (w *Writer) message() []byte {
	b := binary.BigEndian.AppendUint16(nil, 10)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(time.Now().Unix()))
	b = binary.BigEndian.AppendUint32(b, w.sent)
	b = binary.BigEndian.AppendUint32(b, w.domain)
	if w.kind == "udp" || !w.started {
		templates := appendTemplate(nil, template4, fields(8, 12, 4))
		b = appendSet(b, templateSet, appendTemplate(templates, template6, fields(27, 28, 16)))
	}
	for i, id := range []uint16{template4, template6} {
		if len(w.records[i]) > 0 {
			b = appendSet(b, id, w.records[i])
			w.records[i] = w.records[i][:0]
		}
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	w.started = true
	w.sent += w.waiting[0] + w.waiting[1]
	w.waiting = [2]uint32{}
	return b
}

// Close sends what waits and closes the connection or file.
func (w *Writer) Close() error {
	err := w.Flush()
	if w.out == nil {
		return err
	}
	return errors.Join(err, w.out.Close())
}

func appendTemplate(b []byte, id uint16, fields []field) []byte {
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, uint16(len(fields)))
	for _, f := range fields {
		b = binary.BigEndian.AppendUint16(b, f.element)
		b = binary.BigEndian.AppendUint16(b, f.length)
		if f.element&0x8000 != 0 {
			b = binary.BigEndian.AppendUint32(b, enterprise)
		}
	}
	return b
}

func appendSet(b []byte, id uint16, content []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(content)))
	return append(b, content...)
}
