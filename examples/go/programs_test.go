// Package examples_test runs the programs as a user would: with a NATS server, collectors and a kill.
package examples_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"trafficgpt-examples/internal/record"
)

const (
	model    = "../models/protocols.tgpt"
	captures = "../captures/"
	mixed    = captures + "mixed.pcap.gz"
)

// built is where the programs lie, which are compiled once.
var built = sync.OnceValues(func() (string, error) {
	directory, err := os.MkdirTemp("", "trafficgpt-examples")
	if err != nil {
		return "", err
	}
	output, err := exec.Command("go", "build", "-o", directory+"/", "./...").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, output)
	}
	return directory, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if directory, err := built(); err == nil {
		os.RemoveAll(directory)
	}
	os.Exit(code)
}

func program(t *testing.T, name string, arguments ...string) *exec.Cmd {
	t.Helper()
	directory, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(filepath.Join(directory, name), arguments...)
}

// run runs a program to its end and returns what it wrote to its standard output.
func run(t *testing.T, command *exec.Cmd) string {
	t.Helper()
	var said, failed bytes.Buffer
	command.Stdout, command.Stderr = &said, &failed
	if err := command.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", command.Args, err, failed.String())
	}
	return said.String()
}

// fed starts a program that reads its capture from a pipe, and returns the mixed capture and where to write it.
func fed(t *testing.T, command *exec.Cmd, pipe string) (packets []byte, writer *os.File) {
	t.Helper()
	packets, err := os.ReadFile(mixed)
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	if writer, err = os.OpenFile(pipe, os.O_WRONLY, 0); err != nil {
		command.Process.Kill()
		t.Fatal(err)
	}
	return packets, writer
}

// needs skips the test where a program is not installed.
func needs(t testing.TB, name, what string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("skipped: %s is not installed: %s", name, what)
	}
}

// freePort is one that nobody listens to now.
func freePort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// natsServer starts one with JetStream and returns its URL.
func natsServer(t testing.TB) string {
	t.Helper()
	needs(t, "nats-server", "what goes through JetStream")
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	_, port, _ := net.SplitHostPort(address)
	server := exec.Command("nats-server", "-a", "127.0.0.1", "-p", port, "-js", "-sd", t.TempDir())
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	eventually(t, "the NATS server answers", func() bool {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			connection.Close()
		}
		return err == nil
	})
	return "nats://" + address
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for range 1500 {
		if is() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("never came: %s", what)
}

// records reads JSON lines.
func records(t *testing.T, lines string) (all []record.Record) {
	t.Helper()
	scanner := bufio.NewScanner(strings.NewReader(lines))
	for scanner.Scan() {
		var r record.Record
		if err := json.Unmarshal(scanner.Bytes(), &r); err != nil {
			t.Fatalf("%s: %v", scanner.Text(), err)
		}
		all = append(all, r)
	}
	return all
}
