// Command classify tells what every flow of a capture is.
//
//	PKG_CONFIG_PATH=/usr/local/lib/pkgconfig go run ./classify model.tgpt capture.pcap
package main

import (
	"flag"
	"fmt"
	"os"

	"trafficgpt"
)

func main() {
	engine := flag.String("engine", "auto", "who runs the network: auto, native, onnx or cuda")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: classify [-engine NAME] BUNDLE CAPTURE")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := classify(*engine, flag.Arg(0), flag.Arg(1)); err != nil {
		fmt.Fprintln(os.Stderr, "classify:", err)
		os.Exit(2)
	}
}

func classify(engine, bundle, path string) error {
	context, err := trafficgpt.NewContext(trafficgpt.Settings{"engine": engine})
	if err != nil {
		return err
	}
	defer context.Close()
	classifier, err := context.OpenClassifier(bundle)
	if err != nil {
		return err
	}
	defer classifier.Close()
	capture, err := trafficgpt.ReadCapture(path, nil)
	if err != nil {
		return err
	}
	verdicts, err := classifier.Classify(capture.Flows)
	if err != nil {
		return err
	}
	for i, verdict := range verdicts {
		info := capture.Info[i]
		fmt.Printf("%-24v %-24v %3d  %-14s %.3f  %d packets\n", info.Client, info.Server, info.Protocol, verdict.Name,
			verdict.Probability, info.Packets)
	}
	if capture.Warning != "" {
		fmt.Fprintln(os.Stderr, "classify:", capture.Warning)
	}
	return nil
}
