// Package capture reads frames from a capture file or from a network interface, and hands them over in bursts that lie in
// memory as the trafficgpt library takes them.
package capture

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"trafficgpt"
)

const (
	// full is the number of frames at which a burst is handed over at the latest.
	full = 512
	// snap is how many bytes of a frame from an interface are kept: all headers that are looked at.
	snap = 512
	// tick is how long a frame from an interface waits for others.
	tick = 5 * time.Millisecond
)

// A Burst holds frames one after another, and what is known of each.
type Burst struct {
	Bytes []byte
	Infos []trafficgpt.FrameInfo
}

// A Source gives frames.
type Source struct {
	LinkType uint32
	Live     bool
	reader   gopacket.ZeroCopyPacketDataSource
	device   *pcapgo.EthernetHandle
	dropped  atomic.Uint64
	close    func() error

	mu      sync.Mutex
	changed sync.Cond
	filling Burst
	end     error
}

// Open opens the interface of that name, or if that is empty, the capture at path: pcap or pcapng, plain or gzip. The
// loopback interface shows each frame twice, as sent and as received.
func Open(device, path string) (*Source, error) {
	s := &Source{}
	s.changed.L = &s.mu
	var err error
	if device != "" {
		err = s.openDevice(device)
	} else {
		err = s.openFile(path)
	}
	if err != nil {
		return nil, err
	}
	go s.read()
	return s, nil
}

func (s *Source) openDevice(name string) error {
	handle, err := pcapgo.NewEthernetHandle(name)
	if err != nil {
		return err
	}
	if err := errors.Join(handle.SetCaptureLength(snap), handle.SetPromiscuous(true)); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", name, err), handle.Close())
	}
	s.LinkType, s.Live, s.reader, s.device, s.close = trafficgpt.LinkEthernet, true, handle, handle, handle.Close
	return nil
}

func (s *Source) openFile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	s.close = file.Close
	linkType, err := s.openStream(file)
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
	}
	s.LinkType = uint32(linkType)
	return nil
}

func (s *Source) openStream(file io.Reader) (layers.LinkType, error) {
	stream := bufio.NewReaderSize(file, 1<<20)
	if magic, _ := stream.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unpacked, err := gzip.NewReader(stream)
		if err != nil {
			return 0, err
		}
		stream = bufio.NewReaderSize(unpacked, 1<<20)
	}
	if magic, _ := stream.Peek(4); bytes.Equal(magic, []byte{0x0a, 0x0d, 0x0d, 0x0a}) {
		reader, err := pcapgo.NewNgReader(stream, pcapgo.DefaultNgReaderOptions)
		if err != nil {
			return 0, err
		}
		s.reader = reader
		return reader.LinkType(), nil
	}
	reader, err := pcapgo.NewReader(stream)
	if err != nil {
		return 0, err
	}
	s.reader = reader
	return reader.LinkType(), nil
}

// read fills bursts until there is nothing more to read. A file waits for whoever takes them; an interface does not, and
// the system counts what it drops.
func (s *Source) read() {
	for {
		bytes, info, err := s.reader.ZeroCopyReadPacketData()
		s.mu.Lock()
		for err == nil && s.end == nil && len(s.filling.Infos) >= full {
			s.changed.Wait()
		}
		if s.end == nil && err != nil {
			s.end = err
		}
		if s.end != nil {
			s.changed.Broadcast()
			s.mu.Unlock()
			return
		}
		s.filling.Bytes = append(s.filling.Bytes, bytes...)
		s.filling.Infos = append(s.filling.Infos, trafficgpt.FrameInfo{
			TimeNS:   trafficgpt.NS(info.Timestamp),
			Captured: uint32(len(bytes)),
			Length:   uint32(max(info.Length, len(bytes))),
		})
		if len(s.filling.Infos) == full {
			s.changed.Broadcast()
		}
		s.mu.Unlock()
	}
}

// Next swaps burst for the next one. Of an interface it may have no frames, when none came for a while. Returns io.EOF at
// the end, and ctx's error when that is done.
func (s *Source) Next(ctx context.Context, burst *Burst) error {
	burst.Bytes, burst.Infos = burst.Bytes[:0], burst.Infos[:0]
	if s.Live {
		select {
		case <-ctx.Done():
		case <-time.After(tick):
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.Live && s.end == nil && len(s.filling.Infos) < full {
		s.changed.Wait()
	}
	if len(s.filling.Infos) == 0 && s.end != nil {
		return s.end
	}
	*burst, s.filling = s.filling, *burst
	s.changed.Broadcast()
	return nil
}

// Dropped is the number of frames of an interface that came faster than they were read.
func (s *Source) Dropped() uint64 {
	if s.device != nil {
		// The system counts from one question to the next.
		if stats, err := s.device.Stats(); err == nil {
			s.dropped.Add(uint64(stats.Drops))
		}
	}
	return s.dropped.Load()
}

// Close ends the reading.
func (s *Source) Close() error {
	s.mu.Lock()
	if s.end == nil {
		s.end = io.EOF
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	return s.close()
}
