// Package trafficgpt classifies and generates network flows with libtrafficgpt.
//
// A [Context] holds the settings; from it come a [Classifier] and a [Generator], each opened on a bundle. Flows travel
// in a [Batch], many per call: one call into C costs more than a flow. Every method may be called from any number of
// goroutines; the per-thread workers of the C library are pooled inside.
//
// Close what you open. A handle that is forgotten is freed when the garbage collector finds it, which may be late.
//
// The library is found through pkg-config: build with PKG_CONFIG_PATH naming the directory of trafficgpt.pc.
package trafficgpt

// #cgo pkg-config: trafficgpt
// #include <stdlib.h>
// #include <trafficgpt.h>
import "C"
