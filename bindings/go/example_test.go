package trafficgpt_test

import (
	"errors"
	"fmt"
	"log"

	"trafficgpt"
)

// Classifies the flows of a capture.
func Example() {
	context, err := trafficgpt.NewContext(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer context.Close()
	classifier, err := context.OpenClassifier("model.tgpt")
	if err != nil {
		log.Fatal(err)
	}
	defer classifier.Close()
	capture, err := trafficgpt.ReadCapture("capture.pcap", nil)
	if err != nil {
		log.Fatal(err)
	}
	verdicts, err := classifier.Classify(capture.Flows)
	if err != nil {
		log.Fatal(err)
	}
	for i, verdict := range verdicts {
		fmt.Println(capture.Info[i].Client, capture.Info[i].Server, verdict.Name, verdict.Probability)
	}
}

func ExampleBatch() {
	var batch trafficgpt.Batch
	batch.Append(trafficgpt.Packet{Size: 60}, trafficgpt.Packet{Size: -1400, IPT: 250})
	batch.Append(trafficgpt.Packet{Size: 84})
	fmt.Println(batch.Len(), batch.Flow(0)[1].Size, batch.Flow(1)[0].Size)
	// Output: 2 -1400 84
}

func ExampleError() {
	context, err := trafficgpt.NewContext(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer context.Close()
	_, err = context.OpenClassifier("no/such.tgpt")
	fmt.Println(errors.Is(err, trafficgpt.ErrIO))
	// Output: true
}
