// Package exchange is what passes between the meters that see packets and the workers that classify flows: two streams of
// NATS JetStream, and how a batch of flows is written.
//
// A batch is the unit of everything: it is stored once, taken by one worker at a time until one has acknowledged it, and
// its verdicts are one message under a subject that only they can have, stored only if that subject has none yet.
// docs/scaling.md says what follows from this.
package exchange

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"trafficgpt"
	"trafficgpt-examples/internal/metering"
)

// Subjects and streams.
const (
	Flows    = "trafficgpt.flows"    // .SHARD: batches of flows; gone when a worker has acknowledged them
	Verdicts = "trafficgpt.verdicts" // .SHARD.BATCH: their verdicts as JSON lines

	flowsStream    = "TRAFFICGPT_FLOWS"
	verdictsStream = "TRAFFICGPT_VERDICTS"
)

// An Exchange is a connection to JetStream with both streams.
type Exchange struct {
	connection *nats.Conn
	js         jetstream.JetStream
	flows      jetstream.Stream
}

// Connect makes the streams where they are not there.
func Connect(ctx context.Context, url, name string) (*Exchange, error) {
	connection, err := nats.Connect(url, nats.Name(name), nats.MaxReconnects(-1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	x := &Exchange{connection: connection}
	if err := x.streams(ctx); err != nil {
		connection.Close()
		return nil, fmt.Errorf("%s: JetStream: %w", url, err)
	}
	return x, nil
}

func (x *Exchange) streams(ctx context.Context) (err error) {
	if x.js, err = jetstream.New(x.connection); err != nil {
		return err
	}
	// Full means that the workers are too few: the meters wait and say so, rather than push out what nobody has seen.
	x.flows, err = x.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: flowsStream, Subjects: []string{Flows + ".*"},
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxBytes: 4 << 30, Duplicates: 2 * time.Minute})
	if err != nil {
		return err
	}
	_, err = x.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: verdictsStream,
		Subjects: []string{Verdicts + ".*.*"}, MaxAge: 24 * time.Hour, MaxBytes: 4 << 30})
	return err
}

// Close ends the connection.
func (x *Exchange) Close() { x.connection.Close() }

// Send stores a batch, and tries until it is stored or ctx is done. id is the batch's own, of any batch ever sent. complain
// is told why the first try failed, if it did.
func (x *Exchange) Send(ctx context.Context, shard int, id string, batch []byte, complain func(error)) error {
	subject := fmt.Sprintf("%s.%d", Flows, shard)
	const first = 50 * time.Millisecond
	for wait := first; ; wait = min(2*wait, 5*time.Second) {
		// An answer that is lost makes this a second time; the server knows the id then.
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := x.js.Publish(attempt, subject, batch, jetstream.WithMsgID(id))
		cancel()
		if err == nil {
			return nil
		}
		if wait == first {
			complain(err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("batch %s was not stored: %w", id, err)
		case <-time.After(wait):
		}
	}
}

// Take gives the batches of a shard to work, one after another, until ctx is done. Any number of workers may take the same
// shard: each batch goes to one of them, and to another if that does not acknowledge it within patience.
func (x *Exchange) Take(ctx context.Context, shard int, patience time.Duration, work func(jetstream.Msg)) error {
	consumer, err := x.flows.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable:       fmt.Sprintf("workers-%d", shard),
		FilterSubject: fmt.Sprintf("%s.%d", Flows, shard),
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       patience,
		MaxDeliver:    -1,
		MaxAckPending: 4096,
	})
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := takeSome(ctx, consumer, work); err != nil {
			// The server is away, or another is made leader: the connection comes back by itself.
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
		}
	}
	return nil
}

// takeSome waits for batches, for a while. It asks for few at a time: what a worker holds when it dies waits for patience
// to end.
func takeSome(ctx context.Context, consumer jetstream.Consumer, work func(jetstream.Msg)) error {
	waiting, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	messages, err := consumer.Fetch(8, jetstream.FetchContext(waiting))
	if err != nil {
		return err
	}
	for message := range messages.Messages() {
		if ctx.Err() != nil {
			// To another at once.
			_ = message.Nak()
			continue
		}
		work(message)
	}
	return nil
}

// WasTaken tells whether another worker was given this message before, and did not acknowledge it.
func WasTaken(message jetstream.Msg) bool {
	metadata, err := message.Metadata()
	return err == nil && metadata.NumDelivered > 1
}

// BatchID is the id that Send gave a message.
func BatchID(message jetstream.Msg) string { return message.Headers().Get(jetstream.MsgIDHeader) }

// Answer stores the verdicts of a batch, unless there are some: then another worker was faster, or this one has died
// between storing and acknowledging. Tells whether these were stored.
func (x *Exchange) Answer(ctx context.Context, shard int, id string, verdicts []byte) (bool, error) {
	subject := fmt.Sprintf("%s.%d.%s", Verdicts, shard, id)
	_, err := x.js.Publish(ctx, subject, verdicts, jetstream.WithExpectLastSequencePerSubject(0))
	var refused *jetstream.APIError
	if errors.As(err, &refused) && refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return false, nil
	}
	return err == nil, err
}

// header is the size of a flow's part before its packets.
const header = 16 + 16 + 8 + 8 + 8 + 2 + 2 + 1 + 1 + 2

// Append writes a flow behind others.
func Append(b []byte, f *metering.Flow) []byte {
	b = append(b, f.Client[:]...)
	b = append(b, f.Server[:]...)
	b = binary.LittleEndian.AppendUint64(b, f.StartNS)
	b = binary.LittleEndian.AppendUint64(b, f.LastNS)
	b = binary.LittleEndian.AppendUint64(b, f.Count)
	b = binary.LittleEndian.AppendUint16(b, f.ClientPort)
	b = binary.LittleEndian.AppendUint16(b, f.ServerPort)
	b = append(b, f.Protocol, byte(f.Reason))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(f.Packets)))
	for _, p := range f.Packets {
		b = binary.LittleEndian.AppendUint32(b, uint32(p.Size))
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(p.IPT))
	}
	return b
}

// Read reads flows that Append has written: their packets into batch, the rest as flows without packets.
func Read(b []byte, batch *trafficgpt.Batch) (flows []metering.Flow, err error) {
	batch.Reset()
	for len(b) > 0 {
		if len(b) < header {
			return nil, fmt.Errorf("flow %d is cut: %d bytes of its %d are there", len(flows), len(b), header)
		}
		f := metering.Flow{
			Client: [16]byte(b[0:]), Server: [16]byte(b[16:]),
			StartNS:    binary.LittleEndian.Uint64(b[32:]),
			LastNS:     binary.LittleEndian.Uint64(b[40:]),
			Count:      binary.LittleEndian.Uint64(b[48:]),
			ClientPort: binary.LittleEndian.Uint16(b[56:]),
			ServerPort: binary.LittleEndian.Uint16(b[58:]),
			Protocol:   b[60], Reason: trafficgpt.Reason(b[61]),
		}
		n := int(binary.LittleEndian.Uint16(b[62:]))
		if b = b[header:]; len(b) < 8*n {
			return nil, fmt.Errorf("flow %d is cut: it has %d packets in %d bytes", len(flows), n, len(b))
		}
		packets := make([]trafficgpt.Packet, n)
		for i := range packets {
			packets[i].Size = int32(binary.LittleEndian.Uint32(b[8*i:]))
			packets[i].IPT = math.Float32frombits(binary.LittleEndian.Uint32(b[8*i+4:]))
		}
		batch.Append(packets...)
		flows, b = append(flows, f), b[8*n:]
	}
	return flows, nil
}
