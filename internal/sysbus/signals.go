package sysbus

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/godbus/dbus/v5"
)

// Signals are signals that go to the bus together: for those of which there are
// thousands a second, each of which costs the bus library several times the work.
// The zero value is ready. It is for one goroutine.
type Signals struct {
	messages []byte
	begin    int    // of the last message
	number   uint32 // of the last message
}

// The fixed part of a message (D-Bus specification, "Message Format"): its length and
// where in it the length of the body and the serial are.
const (
	fixedHeader = 16
	bodyLength  = 4
	serialAt    = 8
)

// firstSerial is the first serial of these messages: no number that the bus library
// gives, which counts from 1.
const firstSerial = 1 << 31

// Add begins a signal whose values have the signature; the caller adds them. name is
// that of the interface and the signal, with a dot between.
func (s *Signals) Add(path dbus.ObjectPath, name, signature string) {
	s.begin = len(s.messages)
	dot := strings.LastIndexByte(name, '.')
	s.messages = append(s.messages, 'l', byte(dbus.TypeSignal), byte(dbus.FlagNoReplyExpected), 1)
	s.messages = append(s.messages, make([]byte, fixedHeader-4)...)
	s.field(dbus.FieldPath, 'o', string(path))
	s.field(dbus.FieldInterface, 's', name[:dot])
	s.field(dbus.FieldMember, 's', name[dot+1:])
	s.align(8)
	s.messages = append(s.messages, byte(dbus.FieldSignature), 1, 'g', 0, byte(len(signature)))
	s.messages = append(append(s.messages, signature...), 0)
	s.put(fixedHeader-4, len(s.messages)-s.begin-fixedHeader)
	s.align(8)
}

// field adds a header field whose value is a string.
func (s *Signals) field(code dbus.HeaderField, kind byte, value string) {
	s.align(8)
	s.messages = append(s.messages, byte(code), 1, kind, 0)
	s.String(value)
}

// put writes a length at a place of the last message.
func (s *Signals) put(at, n int) {
	binary.LittleEndian.PutUint32(s.messages[s.begin+at:], uint32(n))
}

func (s *Signals) align(n int) {
	for (len(s.messages)-s.begin)%n != 0 {
		s.messages = append(s.messages, 0)
	}
}

// Struct begins a structure, whose members follow.
func (s *Signals) Struct() { s.align(8) }

// String adds a value of type s. The bus parts with whoever sends what is no string
// of its own: without a way to say it, it is empty.
func (s *Signals) String(v string) {
	if !utf8.ValidString(v) || strings.IndexByte(v, 0) >= 0 {
		v = ""
	}
	s.Uint32(uint32(len(v)))
	s.messages = append(append(s.messages, v...), 0)
}

// Text is String of what is a string of the bus for sure.
func (s *Signals) Text(v []byte) {
	s.Uint32(uint32(len(v)))
	s.messages = append(append(s.messages, v...), 0)
}

// Uint32 adds a value of type u or i.
func (s *Signals) Uint32(v uint32) {
	s.align(4)
	s.messages = binary.LittleEndian.AppendUint32(s.messages, v)
}

// Int64 adds a value of type x.
func (s *Signals) Int64(v int64) {
	s.align(8)
	s.messages = binary.LittleEndian.AppendUint64(s.messages, uint64(v))
}

// End ends the signal.
func (s *Signals) End() {
	s.number++
	header := fixedHeader + int(binary.LittleEndian.Uint32(s.messages[s.begin+fixedHeader-4:]))
	header = (header + 7) &^ 7
	s.put(bodyLength, len(s.messages)-s.begin-header)
	s.put(serialAt, firstSerial|int(s.number))
}

// Len is the length of all signals in bytes.
func (s *Signals) Len() int { return len(s.messages) }

// SendSignals sends the signals and empties s.
func (c *Conn) SendSignals(s *Signals) error {
	if len(s.messages) == 0 {
		return nil
	}
	_, err := c.fds.UnixConn.Write(s.messages)
	s.messages = s.messages[:0]
	return err
}
