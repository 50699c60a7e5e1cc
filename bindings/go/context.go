package trafficgpt

// #include <stdlib.h>
// #include <trafficgpt.h>
import "C"

import (
	"errors"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Settings are the library's, by key; trafficgpt.h lists them.
type Settings map[string]string

// A Context is what models are opened under. One is enough for a process; models opened under the same one share
// weights and workers.
type Context struct {
	shared *shared
	closed atomic.Bool
}

// NewContext makes a context with settings, which may be nil.
func NewContext(settings Settings) (*Context, error) {
	if err := checkLibrary(); err != nil {
		return nil, err
	}
	var made *Context
	err := settings.use(func(config *C.tgpt_config) error {
		var out *C.tgpt_context
		var e C.tgpt_error
		if err := failure(C.tgpt_context_new(config, nil, &out, &e), &e); err != nil {
			return err
		}
		context := newHandle(out, func(p *C.tgpt_context) { C.tgpt_context_free(p) })
		made = &Context{shared: &shared{context: context, users: 1}}
		return nil
	})
	return made, err
}

// Close ends the context: nothing more can be opened under it. Models that are open live on, and the last to be closed
// frees what they share.
func (c *Context) Close() error {
	if !c.closed.Swap(true) {
		c.shared.release()
	}
	return nil
}

// open calls f with the context, for a model that will release what it shares with others when it is closed.
func (c *Context) open(f func(*C.tgpt_context) error) error {
	if c.closed.Load() {
		return ErrClosed
	}
	c.shared.mu.Lock()
	c.shared.users++
	c.shared.mu.Unlock()
	err := c.shared.context.use(f)
	if err != nil {
		c.shared.release()
	}
	return err
}

// use calls f with a config of these settings.
func (s Settings) use(f func(*C.tgpt_config) error) error {
	var config *C.tgpt_config
	var e C.tgpt_error
	if err := failure(C.tgpt_config_new(&config, &e), &e); err != nil {
		return err
	}
	defer C.tgpt_config_free(config)
	for key, value := range s {
		if err := set(config, key, value); err != nil {
			return err
		}
	}
	return f(config)
}

func set(config *C.tgpt_config, key, value string) error {
	k, v := C.CString(key), C.CString(value)
	defer C.free(unsafe.Pointer(k))
	defer C.free(unsafe.Pointer(v))
	var e C.tgpt_error
	return failure(C.tgpt_config_set(config, k, v, &e), &e)
}

// shared is what a context and the models under it have in common: the context of C, and the workers that no call is
// using, at most as many as calls have run at once.
type shared struct {
	context *handle[*C.tgpt_context]
	mu      sync.Mutex
	users   int
	idle    []*handle[*C.tgpt_worker]
}

// release is for one user less; the last one frees everything.
func (s *shared) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	for _, worker := range s.idle {
		worker.close()
	}
	s.idle = nil
	s.context.close()
}

// withWorker calls f with a worker that nobody else has.
func (s *shared) withWorker(f func(*C.tgpt_worker) error) error {
	worker, err := s.take()
	if err != nil {
		return err
	}
	err = worker.use(f)
	if errors.Is(err, ErrPanic) {
		// It refuses every call from now on.
		worker.close()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, worker)
	return err
}

// take gives an idle worker, or a new one.
func (s *shared) take() (*handle[*C.tgpt_worker], error) {
	s.mu.Lock()
	if last := len(s.idle) - 1; last >= 0 {
		worker := s.idle[last]
		s.idle = s.idle[:last]
		s.mu.Unlock()
		return worker, nil
	}
	s.mu.Unlock()
	var made *handle[*C.tgpt_worker]
	err := s.context.use(func(context *C.tgpt_context) error {
		var out *C.tgpt_worker
		var e C.tgpt_error
		if err := failure(C.tgpt_worker_new(context, &out, &e), &e); err != nil {
			return err
		}
		made = newHandle(out, func(w *C.tgpt_worker) { C.tgpt_worker_free(w) })
		return nil
	})
	return made, err
}
