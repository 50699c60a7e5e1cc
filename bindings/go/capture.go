package trafficgpt

// #include <stdlib.h>
// #include <trafficgpt.h>
import "C"

import (
	"net/netip"
	"time"
	"unsafe"
)

// A Capture is what metering made of a capture file, in Go's memory.
type Capture struct {
	Flows   Batch      // the first packets of each flow
	Info    []FlowInfo // of each flow, in the same order
	Warning string     // what the reader should know, such as that the file is cut; or ""
}

// FlowInfo tells who talked to whom, and when. The client sent the first packet.
type FlowInfo struct {
	Client, Server netip.AddrPort
	Protocol       uint8 // 6 is TCP, 17 is UDP
	Start, End     time.Time
	Packets        uint64 // of the whole flow; the batch has the first of them
}

// ReadCapture reads a capture (pcap or pcapng, plain or gzip) and meters it into flows, in the order in which they
// ended. settings may be nil.
func ReadCapture(path string, settings Settings) (*Capture, error) {
	if err := checkLibrary(); err != nil {
		return nil, err
	}
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	var handle *C.tgpt_capture
	err := settings.use(func(config *C.tgpt_config) error {
		var e C.tgpt_error
		return failure(C.tgpt_capture_open(name, config, &handle, &e), &e)
	})
	if err != nil {
		return nil, err
	}
	defer C.tgpt_capture_free(handle)
	return copyCapture(handle)
}

// copyCapture takes everything out of C's memory.
func copyCapture(handle *C.tgpt_capture) (*Capture, error) {
	n := int(C.tgpt_capture_n_flows(handle))
	capture := &Capture{Info: make([]FlowInfo, n)}
	var packets *C.tgpt_packet
	var offsets *C.uint64_t
	var e C.tgpt_error
	if err := failure(C.tgpt_capture_packets(handle, &packets, &offsets, &e), &e); err != nil {
		return nil, err
	}
	capture.Flows.Offsets = append([]uint64(nil), unsafe.Slice((*uint64)(unsafe.Pointer(offsets)), n+1)...)
	total := capture.Flows.Offsets[n]
	capture.Flows.Packets = append([]Packet(nil), unsafe.Slice((*Packet)(unsafe.Pointer(packets)), total)...)
	for i := range capture.Info {
		var info C.tgpt_flow_info
		if err := failure(C.tgpt_capture_flow(handle, C.size_t(i), &info, &e), &e); err != nil {
			return nil, err
		}
		capture.Info[i] = flowInfo(&info)
	}
	if warning := C.tgpt_capture_warning(handle); warning != nil {
		capture.Warning = C.GoString(warning)
	}
	return capture, nil
}

func flowInfo(info *C.tgpt_flow_info) FlowInfo {
	end := func(bytes [16]C.uint8_t, port C.uint16_t) netip.AddrPort {
		address := netip.AddrFrom16(*(*[16]byte)(unsafe.Pointer(&bytes)))
		if info.ip_version == 4 {
			address = address.Unmap()
		}
		return netip.AddrPortFrom(address, uint16(port))
	}
	return FlowInfo{
		Client:   end(info.client, info.client_port),
		Server:   end(info.server, info.server_port),
		Protocol: uint8(info.protocol),
		Start:    time.Unix(0, int64(info.start_ns)).UTC(),
		End:      time.Unix(0, int64(info.end_ns)).UTC(),
		Packets:  uint64(info.n_packets),
	}
}
