// Package trafficgpt classifies and generates network flows with libtrafficgpt.
//
// A [Context] holds the settings; from it come a [Classifier] and a [Generator], each opened on a bundle. Flows travel
// in a [Batch], many per call, and are read where they lie: nothing is copied on the way to C or back. Every method may be
// called from any number of goroutines, but those of Flows that say otherwise; the per-thread workers of the C library are
// pooled inside.
//
// A call into C runs to its end. The methods that take a [context.Context] cut their work into pieces and look at it in
// between.
//
// Close what you open. A handle that is forgotten is freed when the garbage collector finds it, which may be late.
//
// In a data path, [Flows] takes packets as they come, parsed or as frames, and tells what their flows are.
//
// # Building
//
// The library is found through pkg-config: build with PKG_CONFIG_PATH naming the directory of trafficgpt.pc. It is linked
// as a shared library; with -tags trafficgpt_static it becomes part of the program. A program that finds a shared
// library older than what it was built for, or of another ABI, is told so by the first call, as [ErrMismatch].
package trafficgpt
