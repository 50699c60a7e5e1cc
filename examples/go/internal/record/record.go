// Package record is what the examples say of a flow, as JSON: one object a line.
package record

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"time"
)

// A Record is what is said of one flow.
type Record struct {
	ID          string         `json:"id"` // the same for all verdicts of a flow, and for no other flow
	Start       time.Time      `json:"start"`
	End         time.Time      `json:"end"`
	Client      netip.AddrPort `json:"client"`
	Server      netip.AddrPort `json:"server"`
	Protocol    uint8          `json:"protocol"`
	Packets     uint64         `json:"packets"`
	Label       string         `json:"label"`
	Probability float32        `json:"probability"`
	Read        int            `json:"read"`   // packets that the label rests on
	Reason      string         `json:"reason"` // why it was said now
	Final       bool           `json:"final"`
	Worker      string         `json:"worker,omitempty"`
}

// SetID makes ID from who talked to whom, and when they began.
func (r *Record) SetID() {
	var key [45]byte
	a, b := r.Client.Addr().As16(), r.Server.Addr().As16()
	copy(key[:], a[:])
	copy(key[16:], b[:])
	binary.BigEndian.PutUint16(key[32:], r.Client.Port())
	binary.BigEndian.PutUint16(key[34:], r.Server.Port())
	key[36] = r.Protocol
	binary.BigEndian.PutUint64(key[37:], uint64(r.Start.UnixNano()))
	sum := sha256.Sum256(key[:])
	r.ID = hex.EncodeToString(sum[:12])
}
