package trafficgpt_test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// returnsMemory tells whether freed blocks go back to the system at once, as tests need that look at residentPages. Else it
// runs the test again in a process of its own where they do.
func returnsMemory(t *testing.T) bool {
	t.Helper()
	const variable = "MALLOC_MMAP_THRESHOLD_"
	if os.Getenv(variable) != "" {
		return true
	}
	again := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	again.Env = append(os.Environ(), variable+"=65536")
	if output, err := again.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
	return false
}

// residentPages is how much of the process is in memory.
func residentPages(t *testing.T) (pages int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size int
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages
}
