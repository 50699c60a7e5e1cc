package trafficgpt

import (
	"errors"
	"strings"
	"testing"
)

func TestOnlyALibraryThatFitsIsUsed(t *testing.T) {
	if err := checkLibrary(); err != nil {
		t.Errorf("the library of this build: %v", err)
	}
	for _, test := range []struct {
		hasABI, needsABI uint32
		has, needs, says string
	}{
		{1, 1, "0.1.0", "0.1.0", ""},
		{1, 1, "0.10.0", "0.9.9", ""},
		{1, 1, "1.0.0", "0.9.9", ""},
		{2, 1, "0.1.0", "0.1.0", "ABI 2"},
		{1, 2, "9.0.0", "0.1.0", "for ABI 2"},
		{1, 1, "0.1.0", "0.1.1", "version 0.1.0"},
		{1, 1, "0.9.9", "0.10.0", "for 0.10.0"},
	} {
		err := compatible(test.hasABI, test.needsABI, test.has, test.needs)
		if test.says == "" && err != nil {
			t.Errorf("%+v: %v", test, err)
		}
		if test.says != "" && (!errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
