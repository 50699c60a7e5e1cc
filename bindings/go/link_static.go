//go:build trafficgpt_static

package trafficgpt

// What pkg-config names comes after the archive; a shared library that lies beside it is then of no more use, and left out.

// #cgo LDFLAGS: -Wl,--as-needed -l:libtrafficgpt.a
// #cgo pkg-config: --static trafficgpt
import "C"
