package trafficgpt_test

import (
	"fmt"
	"os"
	"testing"
)

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
