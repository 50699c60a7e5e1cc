package trafficgpt

// #include <trafficgpt.h>
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"
)

// A Status is the class of a failure, for errors.Is.
type Status int32

// The statuses of the C library.
const (
	ErrInvalid   Status = C.TGPT_E_INVALID    // an argument or a setting is out of its range
	ErrNoMemory  Status = C.TGPT_E_NOMEM      // memory, or a limit on it, is exhausted
	ErrIO        Status = C.TGPT_E_IO         // a file is missing or unreadable
	ErrFormat    Status = C.TGPT_E_FORMAT     // a file is damaged or not what it should be
	ErrVersion   Status = C.TGPT_E_VERSION    // a bundle is newer than the library
	ErrMismatch  Status = C.TGPT_E_MISMATCH   // parts that do not belong together
	ErrNoRuntime Status = C.TGPT_E_NO_RUNTIME // the runtime of the engine asked for is not there
	ErrRuntime   Status = C.TGPT_E_RUNTIME    // the runtime of the engine failed
	ErrBusy      Status = C.TGPT_E_BUSY       // a handle is in use on another thread
	ErrNoSpace   Status = C.TGPT_E_NOSPACE    // a buffer is too small
	ErrPanic     Status = C.TGPT_E_PANIC      // a bug of the library
)

// ErrClosed is what calls on a closed handle return.
var ErrClosed = errors.New("trafficgpt: handle is closed")

// Error says what the status means.
func (s Status) Error() string {
	return "trafficgpt: " + C.GoString(C.tgpt_status_str(C.tgpt_status(s)))
}

// An Error is a failure of the library: its status, and a sentence that names what, where, and the remedy if there is
// one. errors.Is(err, ErrNoRuntime) and its kin tell the statuses apart.
type Error struct {
	Status  Status
	Message string
}

func (e *Error) Error() string {
	return "trafficgpt: " + e.Message
}

// Unwrap gives the status.
func (e *Error) Unwrap() error {
	return e.Status
}

// invalid is an error found on this side of the call.
func invalid(format string, arguments ...any) error {
	return &Error{ErrInvalid, fmt.Sprintf(format, arguments...)}
}

// failure turns a status and what the call wrote into an error, or nil.
func failure(status C.tgpt_status, e *C.tgpt_error) error {
	if status == C.TGPT_OK {
		return nil
	}
	// Not C.GoString, for which every error's 512 bytes would be taken from the heap, also of calls that succeed.
	text := (*[len(e.msg)]byte)(unsafe.Pointer(&e.msg))
	message, _, _ := bytes.Cut(text[:], []byte{0})
	return &Error{Status(status), string(message)}
}

// checkLibrary refuses a library that is not the one this package was compiled for.
func checkLibrary() error {
	return compatible(uint32(C.tgpt_abi()), C.TGPT_ABI, Version(), C.TGPT_VERSION)
}

// compatible tells whether a library of the ABI and version that it has can serve a program that was compiled against a
// header of those that it needs.
func compatible(hasABI, needsABI uint32, has, needs string) error {
	if hasABI != needsABI {
		return &Error{ErrMismatch, fmt.Sprintf("the loaded library has ABI %d (version %s), but this program was built "+
			"for ABI %d (version %s): install that one or build the program again", hasABI, has, needsABI, needs)}
	}
	if older(has, needs) {
		return &Error{ErrMismatch, fmt.Sprintf("the loaded library is version %s, but this program was built for %s: "+
			"install that one or a later one", has, needs)}
	}
	return nil
}

// Version is the loaded library's.
func Version() string {
	return C.GoString(C.tgpt_version())
}

// older tells whether version a, "major.minor.patch", comes before b.
func older(a, b string) bool {
	var x, y [3]int
	fmt.Sscanf(a, "%d.%d.%d", &x[0], &x[1], &x[2])
	fmt.Sscanf(b, "%d.%d.%d", &y[0], &y[1], &y[2])
	for i := range x {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return false
}
