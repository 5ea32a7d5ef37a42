package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// journalSocket is where the journal takes messages in its own protocol
// (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const journalSocket = "/run/systemd/journal/socket"

// maxField bounds a field, in bytes: a datagram with all of them must fit the
// socket's buffer.
const maxField = 8 << 10

// newLogger logs from level on: to the journal where w, or what is behind it, is
// its end, otherwise text to w.
func newLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	text := slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
	f, ok := w.(*os.File)
	if !ok || !isJournal(f, os.Getenv("JOURNAL_STREAM")) {
		return slog.New(text)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		return slog.New(text)
	}
	return slog.New(&journal{conn: conn, to: &net.UnixAddr{Name: journalSocket, Net: "unixgram"}, level: level, text: text})
}

// isJournal reports whether f is the stream that the service manager named in
// JOURNAL_STREAM: device and inode (systemd.exec(5)).
func isJournal(f *os.File, stream string) bool {
	var s unix.Stat_t
	return unix.Fstat(int(f.Fd()), &s) == nil && stream == fmt.Sprintf("%d:%d", s.Dev, s.Ino)
}

// journal is a slog.Handler that writes to systemd's journal, each key a field.
type journal struct {
	conn  *net.UnixConn
	to    *net.UnixAddr
	level slog.Leveler
	text  slog.Handler // takes what the journal did not
	attrs []slog.Attr  // of With
	group string       // of WithGroup, with a final underscore; or empty
}

// Enabled implements slog.Handler.
func (j *journal) Enabled(_ context.Context, l slog.Level) bool { return l >= j.level.Level() }

// WithAttrs implements slog.Handler.
func (j *journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *j
	with.text = j.text.WithAttrs(attrs)
	with.attrs = append(append([]slog.Attr{}, j.attrs...), inGroup(j.group, attrs)...)
	return &with
}

// WithGroup implements slog.Handler.
func (j *journal) WithGroup(name string) slog.Handler {
	with := *j
	with.text = j.text.WithGroup(name)
	with.group = j.group + name + "_"
	return &with
}

// inGroup puts the group before each key.
func inGroup(group string, attrs []slog.Attr) []slog.Attr {
	out := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		out[i] = slog.Attr{Key: group + a.Key, Value: a.Value}
	}
	return out
}

// Handle implements slog.Handler. It does not wait for a journal that is not
// there: such a message is text.
func (j *journal) Handle(ctx context.Context, r slog.Record) error {
	attrs := append([]slog.Attr{}, j.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, inGroup(j.group, []slog.Attr{a})...)
		return true
	})
	if _, err := j.conn.WriteToUnix(journalEntry(r, attrs), j.to); err != nil {
		return j.text.Handle(ctx, r)
	}
	return nil
}

// journalEntry is a message in the journal's protocol. It is pure.
func journalEntry(r slog.Record, attrs []slog.Attr) []byte {
	var b bytes.Buffer
	message := r.Message
	for _, a := range attrs {
		message += " " + a.Key + "=" + quoted(a.Value.Resolve().String())
	}
	field(&b, "MESSAGE", message)
	field(&b, "PRIORITY", priority(r.Level))
	field(&b, "SYSLOG_IDENTIFIER", "vnetd")
	if id := messageIDs[r.Message]; id != "" {
		field(&b, "MESSAGE_ID", id)
	}
	for _, a := range attrs {
		field(&b, fieldName(a.Key), a.Value.Resolve().String())
	}
	return b.Bytes()
}

// field appends one field. A value with a line feed has its length before it.
func field(b *bytes.Buffer, name, value string) {
	value = value[:min(len(value), maxField)]
	b.WriteString(name)
	if strings.Contains(value, "\n") {
		b.WriteByte('\n')
		_ = binary.Write(b, binary.LittleEndian, uint64(len(value)))
	} else {
		b.WriteByte('=')
	}
	b.WriteString(value)
	b.WriteByte('\n')
}

// fieldName is a key as a field: capitals, digits and underscores, at most 64.
func fieldName(key string) string {
	name := "VNET_" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r - 'a' + 'A'
		}
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, key)
	return name[:min(len(name), 64)]
}

// quoted quotes what would not stand alone.
func quoted(s string) string {
	if s == "" || strings.ContainsAny(s, " \"=\n\t") {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// priority is a level as syslog(3) counts.
func priority(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "3"
	case l >= slog.LevelWarn:
		return "4"
	case l >= slog.LevelInfo:
		return "6"
	}
	return "7"
}
