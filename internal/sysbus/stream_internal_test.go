package sysbus

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// message is a call as the bus sends it on.
func message(t testing.TB, order binary.ByteOrder, sender, text string) []byte {
	t.Helper()
	msg := &dbus.Message{Type: dbus.TypeMethodCall, Body: []any{text}, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/org/vnetd1")), dbus.FieldMember: dbus.MakeVariant("Plan"),
		dbus.FieldInterface: dbus.MakeVariant("org.vnetd1.Manager"), dbus.FieldSender: dbus.MakeVariant(sender),
		dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(text)),
	}}
	var b bytes.Buffer
	if err := msg.EncodeTo(&b, order); err != nil {
		t.Fatal(err)
	}
	order.PutUint32(b.Bytes()[serialAt:], uint32(len(text)+1))
	return b.Bytes()
}

// served is an fdConn that reads what is written to the other end, and what it
// answers by itself.
func served(t testing.TB) (c *fdConn, other net.Conn, skipped map[uint32]string) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		t.Cleanup(func() { _ = ends[i].Close() })
	}
	c, skipped = newFDConn(ends[0].(*net.UnixConn)), make(map[uint32]string)
	c.stream.messages.Store(true)
	c.tooLong = func(sender string, serial uint32, _ int) { skipped[serial] = sender }
	return c, ends[1], skipped
}

// TestLongCall holds that a call that is too long is skipped and told of, and that
// what stands before and behind it is read.
func TestLongCall(t *testing.T) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		c, other, skipped := served(t)
		long := strings.Repeat("x", MaxCall)
		go func() {
			for _, text := range []string{"", "one", long, "three"} {
				_, _ = other.Write(message(t, order, ":1.7", text))
			}
		}()
		for _, want := range []string{"", "one", "three"} {
			msg, err := dbus.DecodeMessage(c)
			if err != nil {
				t.Fatal(err)
			}
			if got := msg.Body[0].(string); got != want || c.stream.size != len(want)+5 {
				t.Errorf("got %.20q of %d bytes, want %q", got, c.stream.size, want)
			}
		}
		if len(skipped) != 1 || skipped[MaxCall+1] != ":1.7" {
			t.Errorf("skipped %v, want that of :1.7", skipped)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(message(f, binary.LittleEndian, ":1.7", "x"), false)
	f.Add(message(f, binary.BigEndian, ":1.7", "x"), true)
	f.Fuzz(func(t *testing.T, head []byte, big bool) {
		var order binary.ByteOrder = binary.LittleEndian
		if big {
			order = binary.BigEndian
		}
		if len(head) < fixedHeader {
			return
		}
		if text := textField(head, order, dbus.FieldSender); len(text) > len(head) {
			t.Errorf("a field of %d bytes in a header of %d", len(text), len(head))
		}
	})
}
