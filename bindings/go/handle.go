package trafficgpt

import (
	"runtime"
	"sync"
)

// A handle guards one of C, a pointer of type P: calls hold it shared, Close waits for them and then frees it, once.
type handle[P comparable] struct {
	mu      sync.RWMutex
	pointer P
	free    func(P)
	cleanup runtime.Cleanup
}

// newHandle takes ownership of pointer. The garbage collector frees it if Close is forgotten.
func newHandle[P comparable](pointer P, free func(P)) *handle[P] {
	h := &handle[P]{pointer: pointer, free: free}
	h.cleanup = runtime.AddCleanup(h, free, pointer)
	return h
}

// use calls f with the pointer, which is not freed until f returns.
func (h *handle[P]) use(f func(P) error) error {
	h.mu.RLock()
	// Also keeps h, and with it the pointer, from the garbage collector until f is done.
	defer h.mu.RUnlock()
	var closed P
	if h.pointer == closed {
		return ErrClosed
	}
	return f(h.pointer)
}

// close frees the handle when the last call on it has returned, and tells whether it was open.
func (h *handle[P]) close() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	var closed P
	if h.pointer == closed {
		return false
	}
	h.cleanup.Stop()
	h.free(h.pointer)
	h.pointer = closed
	return true
}
