package libvirtrpc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// The programs that share a connection.
const (
	programRemote    = 0x20008086
	programKeepalive = 0x6b656570

	protocolVersion = 1 // of both
)

// The types of messages (virNetMessageType).
const (
	typeCall        = 0
	typeReply       = 1
	typeMessage     = 2 // nobody answers it
	typeCallWithFDs = 4
)

// The procedures of the keepalive program.
const (
	keepalivePing = 1
	keepalivePong = 2
)

// status says how a call went.
const (
	statusOK    = 0
	statusError = 1
)

// Sizes of messages, their length word included.
const (
	headerSize = 28
	// maxFrame is what a client may send that has all rights: it holds the
	// longest document that a network may have. libvirt's own limit, 32 MiB, is for
	// what this driver has not.
	maxFrame = maxString + 64<<10
	// maxSmallFrame is what all others may send: nothing that they may call has
	// a document in it.
	maxSmallFrame = 64 << 10
)

// header begins every message, after its length.
type header struct {
	program uint32
	version uint32
	proc    int32
	kind    uint32 // virNetMessageType
	serial  uint32
	status  uint32
}

// message is one frame.
type message struct {
	header
	payload []byte
}

// readMessage reads the next message, at most limit bytes long. Its buffer grows
// with what arrives, not with what the length word promises.
func readMessage(r io.Reader, limit int) (message, error) {
	var word [4]byte
	if _, err := io.ReadFull(r, word[:]); err != nil {
		return message{}, err
	}
	length := binary.BigEndian.Uint32(word[:])
	if length < headerSize || int64(length) > int64(limit) {
		return message{}, fmt.Errorf("a message of %d bytes: want %d to %d", length, headerSize, limit)
	}
	var b bytes.Buffer
	want := int64(length) - int64(len(word))
	if n, err := io.Copy(&b, io.LimitReader(r, want)); err != nil || n < want {
		return message{}, fmt.Errorf("a message broke off after %d of %d bytes: %w", n, want, cmpErr(err, io.ErrUnexpectedEOF))
	}
	return parseMessage(b.Bytes()), nil
}

// cmpErr is err, or otherwise where there is none.
func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// parseMessage splits what follows the length word, which has room for a header.
func parseMessage(b []byte) message {
	d := decoder{rest: b}
	m := message{header: header{
		program: d.uint32(), version: d.uint32(), proc: d.int32(),
		kind: d.uint32(), serial: d.uint32(), status: d.uint32(),
	}}
	m.payload = d.rest
	return m
}

// frame is a message with that header, whose payload write adds, ready to be
// sent. write may be nil.
func frame(h header, write func(*encoder)) []byte {
	e := &encoder{buf: make([]byte, 4, 256)}
	e.uint32(h.program)
	e.uint32(h.version)
	e.int32(h.proc)
	e.uint32(h.kind)
	e.uint32(h.serial)
	e.uint32(h.status)
	if write != nil {
		write(e)
	}
	binary.BigEndian.PutUint32(e.buf, uint32(len(e.buf)))
	return e.buf
}

// answer is the header of the reply to a call.
func (h header) answer(status uint32) header {
	h.kind, h.status = typeReply, status
	return h
}
