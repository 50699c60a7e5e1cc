package trafficgpt_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"trafficgpt"
)

// Where the examples find a model and captures.
const (
	model    = "../../examples/models/protocols.tgpt"
	captures = "../../examples/captures/"
)

// Classifies the flows of a capture.
func Example() {
	// Without settings, ONNX Runtime is used where it is found.
	settings := trafficgpt.Settings{"engine": "native"}
	root, err := trafficgpt.NewContext(settings)
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()
	classifier, err := root.OpenClassifier(model)
	if err != nil {
		log.Fatal(err)
	}
	defer classifier.Close()
	capture, err := trafficgpt.ReadCapture(captures+"SSH.pcap.gz", nil)
	if err != nil {
		log.Fatal(err)
	}
	verdicts, err := classifier.Classify(capture.Flows)
	if err != nil {
		log.Fatal(err)
	}
	for i, verdict := range verdicts[:3] {
		fmt.Println(capture.Info[i].Client, capture.Info[i].Server, verdict.Name)
	}
	// Output:
	// 10.77.1.1:39126 10.77.0.11:22 SSH
	// 10.77.2.1:40942 10.77.0.12:22 SSH
	// 10.77.2.2:40502 10.77.0.12:22 SSH
}

// Draws flows of a class; the same seed gives the same flows.
func ExampleGenerator() {
	root, err := trafficgpt.NewContext(trafficgpt.Settings{"engine": "native"})
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()
	generator, err := root.OpenGenerator(model)
	if err != nil {
		log.Fatal(err)
	}
	defer generator.Close()
	sampling := trafficgpt.DefaultSampling(7)
	for class, name := range generator.Classes() {
		if name == "DNS" {
			sampling.Class = uint32(class)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	batch, err := generator.GenerateContext(ctx, 4, sampling)
	if err != nil {
		log.Fatal(err)
	}
	for i := range batch.Len() {
		first := batch.Flow(i)[0]
		fmt.Println("from the client:", first.Size > 0, "at", first.IPT)
	}
	// Output:
	// from the client: true at 0
	// from the client: true at 0
	// from the client: true at 0
	// from the client: true at 0
}

// Tells what flows are while their packets come.
func ExampleFlows() {
	root, err := trafficgpt.NewContext(trafficgpt.Settings{"engine": "native"})
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()
	classifier, err := root.OpenClassifier(model)
	if err != nil {
		log.Fatal(err)
	}
	defer classifier.Close()
	flows, err := classifier.NewFlows(trafficgpt.Settings{"flows.max_flows": "10000", "flows.counts": "16"})
	if err != nil {
		log.Fatal(err)
	}
	defer flows.Close()

	// The first flow of a capture, as a data path would see its packets now.
	capture, err := trafficgpt.ReadCapture(captures+"SSH.pcap.gz", nil)
	if err != nil {
		log.Fatal(err)
	}
	now, info := trafficgpt.NS(time.Now()), capture.Info[0]
	var burst []trafficgpt.Observation
	for _, packet := range capture.Flows.Flow(0) {
		now += uint64(1000 * packet.IPT)
		from, to, size := info.Client, info.Server, packet.Size
		if size < 0 {
			from, to, size = to, from, -size
		}
		burst = append(burst, trafficgpt.Observation{TimeNS: now, Src: from.Addr().As16(), Dst: to.Addr().As16(),
			SrcPort: from.Port(), DstPort: to.Port(), Size: uint32(size), Protocol: info.Protocol})
	}
	if err := flows.Push(burst); err != nil {
		log.Fatal(err)
	}
	for verdict, err := range flows.Verdicts(context.Background(), 0) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(verdict.Client(), verdict.Server(), flows.Name(verdict), verdict.Reason, verdict.Packets)
	}
	// Output:
	// 10.77.1.1:39126 10.77.0.11:22 SSH count 49
}

func ExampleBatch() {
	var batch trafficgpt.Batch
	batch.Append(trafficgpt.Packet{Size: 60}, trafficgpt.Packet{Size: -1400, IPT: 250})
	batch.Append(trafficgpt.Packet{Size: 84})
	fmt.Println(batch.Len(), batch.Flow(0)[1].Size, batch.Flow(1)[0].Size)
	// Output: 2 -1400 84
}

func ExampleError() {
	root, err := trafficgpt.NewContext(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()
	_, err = root.OpenClassifier("no/such.tgpt")
	fmt.Println(errors.Is(err, trafficgpt.ErrIO))
	// Output: true
}
