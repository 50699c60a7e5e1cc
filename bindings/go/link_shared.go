//go:build !trafficgpt_static

package trafficgpt

// #cgo pkg-config: trafficgpt
import "C"
