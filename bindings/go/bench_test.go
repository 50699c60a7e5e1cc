package trafficgpt_test

import (
	"fmt"
	"net/netip"
	"testing"

	"trafficgpt"
)

// What a call into C costs by itself: a handle is taken and given back, and one number is read.
func BenchmarkCrossing(b *testing.B) {
	flows := table(b, trafficgpt.Settings{"flows.max_flows": "1000"})
	for b.Loop() {
		flows.Due()
	}
}

// Nanoseconds per packet. 4,096 flows that have had their verdict, in a table that is warm.
func BenchmarkPush(b *testing.B) {
	observations := make([]trafficgpt.Observation, 4096)
	for i := range observations {
		observations[i] = trafficgpt.Observation{TimeNS: start, Src: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).As16(),
			Dst: netip.MustParseAddr("10.1.0.1").As16(), SrcPort: 4000, DstPort: 443, Size: 100, Protocol: 17}
	}
	for _, n := range []int{1, 64, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			flows := warm(b, observations)
			next := 0
			for b.Loop() {
				if err := flows.Push(observations[next : next+n]); err != nil {
					b.Fatal(err)
				}
				next = (next + n) % len(observations)
			}
			perItem(b, n, "ns/packet")
		})
	}
	var bytes []byte
	var infos []trafficgpt.FrameInfo
	for _, o := range observations {
		frame, info := frame(o)
		bytes, infos = append(bytes, frame...), append(infos, info)
	}
	for _, n := range []int{1, 64, 4096} {
		b.Run(fmt.Sprint("frames/", n), func(b *testing.B) {
			flows := warm(b, observations)
			next := 0
			for b.Loop() {
				if err := flows.PushFrames(trafficgpt.LinkEthernet, bytes[42*next:42*(next+n)], infos[next:next+n]); err != nil {
					b.Fatal(err)
				}
				next = (next + n) % len(observations)
			}
			perItem(b, n, "ns/packet")
		})
	}
}

func warm(b *testing.B, observations []trafficgpt.Observation) *trafficgpt.Flows {
	b.Helper()
	flows := table(b, trafficgpt.Settings{"flows.counts": "1", "flows.min_packets": "1"})
	if err := flows.Push(observations); err != nil {
		b.Fatal(err)
	}
	all(b, flows)
	return flows
}

// Nanoseconds per flow of 22 packets.
func BenchmarkClassify(b *testing.B) {
	classifier := classifier(b)
	for _, n := range []int{1, 64, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var batch trafficgpt.Batch
			for i := range n {
				flow := []trafficgpt.Packet{{Size: int32(60 + i%1400)}}
				for j := range 21 {
					flow = append(flow, trafficgpt.Packet{Size: int32(-40 - (i*j)%1400), IPT: float32(j * 250)})
				}
				batch.Append(flow...)
			}
			labels := make([]uint32, n)
			for b.Loop() {
				if err := classifier.ClassifyInto(batch, labels, nil); err != nil {
					b.Fatal(err)
				}
			}
			perItem(b, n, "ns/flow")
		})
	}
}

func perItem(b *testing.B, n int, unit string) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), unit)
}
