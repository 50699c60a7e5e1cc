package examples_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"trafficgpt-examples/internal/ipfix"
	"trafficgpt-examples/internal/record"
)

// probed is what the probe says of the mixed capture, as JSON lines.
func probed(t *testing.T, arguments ...string) []record.Record {
	t.Helper()
	arguments = append([]string{"-model", model, "-set", "engine=native", "-json", "-"}, arguments...)
	return records(t, run(t, program(t, "probe", append(arguments, mixed)...)))
}

func TestTheProbeSaysWhatFlowsAre(t *testing.T) {
	final := probed(t)
	if len(final) < 500 {
		t.Fatalf("%d verdicts", len(final))
	}
	ids := map[string]bool{}
	for _, r := range final {
		if ids[r.ID] || !r.Final || r.Label == "" || r.End.Before(r.Start) || r.Packets < 2 || !r.Client.IsValid() {
			t.Errorf("%+v", r)
		}
		ids[r.ID] = true
	}
	every := probed(t, "-all", "-set", "flows.confidence=1")
	if len(every) <= len(final) {
		t.Errorf("%d verdicts with earlier ones, %d final ones", len(every), len(final))
	}
	for _, arguments := range [][]string{{}, {"-model", "no/such", mixed}, {"-model", model, "no/such"},
		{"-model", model, "go.mod"}, {"-model", model, "-ipfix", "pigeon:", mixed}, {"-model", model, "-i", "no-such0"}} {
		output, err := program(t, "probe", arguments...).CombinedOutput()
		if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 2 || len(output) == 0 {
			t.Errorf("%q: %v\n%s", arguments, err, output)
		}
	}
}

// flowKey is what a collector tells of a flow.
func flowKey(client, server string, clientPort, serverPort, protocol, packets any) string {
	return fmt.Sprint(client, " ", clientPort, " ", server, " ", serverPort, " ", protocol, " ", packets)
}

func flowKeys(all []record.Record) (keys []string) {
	for _, r := range all {
		keys = append(keys, flowKey(r.Client.Addr().String(), r.Server.Addr().String(), r.Client.Port(), r.Server.Port(),
			r.Protocol, r.Packets))
	}
	return keys
}

// same tells what one list has and the other has not.
func same(t *testing.T, who string, got, want []string) {
	t.Helper()
	count := map[string]int{}
	for _, key := range got {
		count[key]++
	}
	for _, key := range want {
		count[key]--
	}
	for key, n := range count {
		if n != 0 {
			t.Errorf("%s has %+d of: %s", who, n, key)
		}
	}
}

// Wireshark reads what is written to a file or sent over TCP, and finds in it the flows of the JSON lines, with their labels.
func TestWiresharkReadsTheIPFIX(t *testing.T) {
	needs(t, "tshark", "that it reads our IPFIX")
	file := filepath.Join(t.TempDir(), "flows.ipfix")
	all := probed(t, "-ipfix", "file:"+file)
	wiresharkReads(t, file, all)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	collected := make(chan []byte)
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			t.Error(err)
			close(collected)
			return
		}
		bytes, _ := io.ReadAll(connection)
		collected <- bytes
	}()
	all = probed(t, "-ipfix", "tcp:"+listener.Addr().String())
	sent := filepath.Join(t.TempDir(), "sent.ipfix")
	if err := os.WriteFile(sent, <-collected, 0o600); err != nil {
		t.Fatal(err)
	}
	wiresharkReads(t, sent, all)
}

func wiresharkReads(t *testing.T, path string, all []record.Record) {
	t.Helper()
	output, err := exec.Command("tshark", "-r", path, "-T", "json", "--no-duplicate-keys").Output()
	if err != nil {
		t.Fatal(err)
	}
	var messages []struct {
		Source struct {
			Layers struct {
				CFlow map[string]any `json:"cflow"`
			} `json:"layers"`
		} `json:"_source"`
	}
	if err := json.Unmarshal(output, &messages); err != nil {
		t.Fatal(err)
	}
	var keys []string
	labels := map[string]int{}
	for _, message := range messages {
		for _, flow := range decodedFlows(message.Source.Layers.CFlow) {
			text := func(name string) string { return fmt.Sprint(flow["cflow."+name]) }
			client, server := text("srcaddr"), text("dstaddr")
			if flow["cflow.srcaddr"] == nil {
				client, server = text("srcaddrv6"), text("dstaddrv6")
			}
			keys = append(keys, flowKey(client, server, text("srcport"), text("dstport"), text("protocol"), text("permanent_packets")))
			labels[text("appl_name")]++
		}
	}
	same(t, "tshark", keys, flowKeys(all))
	for _, r := range all {
		labels[r.Label]--
	}
	for label, n := range labels {
		if n != 0 {
			t.Errorf("label %q: %+d", label, n)
		}
	}
	// Such as a sequence number that is not the next one.
	if strings.Contains(string(output), "_ws.expert") || strings.Contains(string(output), "malformed") {
		t.Error("tshark complains of something")
	}
}

// decodedFlows finds the flows in tshark's tree, wherever it hangs them: they have a protocol.
func decodedFlows(tree any) (flows []map[string]any) {
	switch node := tree.(type) {
	case map[string]any:
		if _, is := node["cflow.protocol"]; is {
			return []map[string]any{node}
		}
		for _, child := range node {
			flows = append(flows, decodedFlows(child)...)
		}
	case []any:
		for _, child := range node {
			flows = append(flows, decodedFlows(child)...)
		}
	}
	return flows
}

// nfcapd collects over UDP, and nfdump tells the same flows of what it stored.
func TestNfdumpCollectsOverUDP(t *testing.T) {
	needs(t, "nfcapd", "that nfdump collects our IPFIX")
	needs(t, "nfdump", "that nfdump collects our IPFIX")
	directory, port := t.TempDir(), freePort(t)
	collector := exec.Command("nfcapd", "-l", directory, "-p", strconv.Itoa(port), "-b", "127.0.0.1")
	if err := collector.Start(); err != nil {
		t.Fatal(err)
	}
	defer collector.Process.Kill()
	eventually(t, "nfcapd listens", func() bool { _, listens := udpQueue(t, port); return listens })
	all := probed(t, "-ipfix", fmt.Sprintf("udp:127.0.0.1:%d", port))
	eventually(t, "nfcapd takes all datagrams", func() bool { queued, _ := udpQueue(t, port); return queued == 0 })
	// It closes its file when it is told to end.
	collector.Process.Signal(syscall.SIGTERM)
	collector.Wait()
	said := run(t, exec.Command("nfdump", "-q", "-R", directory, "-o", "fmt:%sa %sp %da %dp %pr %pkt", "-6", "-N"))
	var keys []string
	for line := range strings.Lines(said) {
		if f := strings.Fields(line); len(f) == 6 {
			protocol := map[string]string{"TCP": "6", "UDP": "17", "ICMP": "1", "ICMP6": "58", "IGMP": "2"}[f[4]]
			if protocol == "" {
				protocol = f[4]
			}
			// Of ICMP it shows type and code in the port's place: "0.0" is 0.
			port, _, _ := strings.Cut(f[3], ".")
			keys = append(keys, flowKey(f[0], f[2], f[1], port, protocol, f[5]))
		}
	}
	same(t, "nfdump", keys, flowKeys(all))
}

// udpQueue tells how many bytes wait at a UDP port, and whether some process has it. The kernel's table is read, because to
// try the port would take it from the process that is about to have it.
func udpQueue(t *testing.T, port int) (queued uint64, listens bool) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Skipf("skipped: %v: that nfdump collects our IPFIX", err)
	}
	for line := range strings.Lines(string(table)) {
		// sl, local address:port, remote, state, tx_queue:rx_queue, all in hexadecimal.
		f := strings.Fields(line)
		if len(f) < 5 || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			continue
		}
		_, received, _ := strings.Cut(f[4], ":")
		if queued, err = strconv.ParseUint(received, 16, 64); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return queued, true
	}
	return 0, false
}

// A collector that hangs up is called again, and told the templates again.
func TestACollectorMayHangUp(t *testing.T) {
	needs(t, "tshark", "that it reads our IPFIX")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	writer, err := ipfix.Open("tcp:"+listener.Addr().String(), 1)
	if err != nil {
		t.Fatal(err)
	}
	connection, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	connection.Close()
	one := probed(t)[:1]
	// The system finds out with one of the next messages.
	eventually(t, "the writer finds out", func() bool {
		if err := writer.Write(&one[0]); err != nil {
			t.Fatal(err)
		}
		return writer.Flush() != nil
	})
	if err := writer.Write(&one[0]); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	connection, err = listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := io.ReadAll(connection)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sent.ipfix")
	if err := os.WriteFile(path, bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	wiresharkReads(t, path, one)
}

// An output that fails stops neither the others nor the probe, which says so in the end.
func TestAnOutputThatFailsStopsNothing(t *testing.T) {
	want := probed(t)
	probe := program(t, "probe", "-model", model, "-set", "engine=native", "-json", "-", "-ipfix",
		fmt.Sprintf("udp:127.0.0.1:%d", freePort(t)), mixed)
	var said, failed strings.Builder
	probe.Stdout, probe.Stderr = &said, &failed
	err := probe.Run()
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.ExitCode() != 2 || !strings.Contains(failed.String(), "ipfix failed") {
		t.Errorf("%v\n%s", err, failed.String())
	}
	if got := records(t, said.String()); len(got) != len(want) {
		t.Errorf("%d verdicts, %d without the other output", len(got), len(want))
	}
}

func TestTheProbePublishesToJetStream(t *testing.T) {
	url := natsServer(t)
	all := probed(t, "-nats", url)
	// Again: JetStream knows what it has.
	probed(t, "-nats", url)
	connection, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	stream, err := js.Stream(ctx, "TRAFFICGPT_PROBE")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != uint64(len(all)) {
		t.Fatalf("%d messages, %d verdicts", n, len(all))
	}
	message, err := stream.GetMsg(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if r := records(t, string(message.Data))[0]; r != all[0] || message.Subject != "trafficgpt.probe."+r.Label {
		t.Errorf("%s: %+v, not %+v", message.Subject, r, all[0])
	}
}

// Metrics are there while packets come: a capture through a pipe that does not end.
func TestMetricsWhileItRuns(t *testing.T) {
	directory := t.TempDir()
	pipe := filepath.Join(directory, "capture")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip("skipped: no named pipes here: metrics of a probe that runs")
	}
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	probe := program(t, "probe", "-model", model, "-set", "engine=native", "-metrics", address, pipe)
	packets, writer := fed(t, probe, pipe)
	defer probe.Process.Kill()
	defer writer.Close()
	if _, err := writer.Write(packets); err != nil {
		t.Fatal(err)
	}
	value := regexp.MustCompile(`(?m)^trafficgpt_packets_total (\d+)$`)
	var text string
	eventually(t, "packets in the metrics", func() bool {
		answer, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		text = string(body)
		found := value.FindStringSubmatch(text)
		return found != nil && len(found[1]) >= 4
	})
	for _, name := range []string{`trafficgpt_verdicts_total{label="`, "trafficgpt_flows_tracked ", "trafficgpt_table_bytes ",
		"trafficgpt_verdict_seconds_count ", "process_cpu_seconds_total "} {
		if !strings.Contains(text, name) {
			t.Errorf("no %s in\n%s", name, text)
		}
	}
}

// Datagrams between two sockets, seen on the loopback interface.
func TestTheProbeHearsAnInterface(t *testing.T) {
	path := filepath.Join(t.TempDir(), "heard.json")
	probe := program(t, "probe", "-model", model, "-set", "engine=native", "-i", "lo", "-json", path)
	said := &strings.Builder{}
	probe.Stderr = said
	if err := probe.Start(); err != nil {
		t.Fatal(err)
	}
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := net.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ended := make(chan error, 1)
	go func() { ended <- probe.Wait() }()
	want := fmt.Sprintf("%q,\"server\":%q", client.LocalAddr(), server.LocalAddr())
	eventually(t, "the flow is told of", func() bool {
		select {
		case err := <-ended:
			if strings.Contains(said.String(), "packet socket") {
				t.Skipf("skipped: packet sockets are not allowed here: the probe on an interface")
			}
			t.Fatalf("the probe ended: %v\n%s", err, said)
		default:
		}
		for range 20 {
			client.Write(make([]byte, 300))
		}
		lines, _ := os.ReadFile(path)
		return strings.Contains(string(lines), want)
	})
	// Ctrl-C ends all flows.
	probe.Process.Signal(os.Interrupt)
	if err := <-ended; err != nil {
		t.Errorf("%v\n%s", err, said)
	}
}
