package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/pin/tftp/v3/netascii"
)

// When a guest that does not answer is given up.
const (
	defaultTimeout = time.Second
	maxRetries     = 8
)

// errAborted says that a guest ended its transfer, as firmware does that wanted
// to know the file's size alone.
var errAborted = errors.New("the guest ended the transfer")

// transfer sends one file to one guest. run belongs to one goroutine, handle to
// another.
type transfer struct {
	file    *os.File
	data    io.Reader // file as it is sent
	send    func([]byte) error
	acked   func(first uint64) // told of each progress: the first block that is not acknowledged
	options []byte             // the packet that answers the request's, nil for none
	block   int
	window  int
	timeout time.Duration

	acks  chan uint16
	abort chan struct{} // capacity 1

	first uint64   // number of out[0]
	out   [][]byte // packets that are not acknowledged
	ended bool     // the last block is in out, or was
}

// newTransfer makes the transfer of f that r asks for. No block is larger than block.
func newTransfer(r request, f *os.File, block int) *transfer {
	t := &transfer{
		file: f, data: f, block: defaultBlock, window: 1, timeout: defaultTimeout,
		acks: make(chan uint16, maxWindow), abort: make(chan struct{}, 1), first: 1,
	}
	if r.ascii {
		t.data = netascii.ToReader(f)
	}
	t.negotiate(r, block)
	return t
}

// negotiate takes over what the guest asks for, or less.
//
// RFC 2347: "If the server supports option negotiation, and it recognizes one or
// more of the options specified in the request packet, the server may respond with
// an Options Acknowledgment (OACK)."
func (t *transfer) negotiate(r request, block int) {
	var opts []string
	if r.block != 0 {
		t.block = min(r.block, block)
		opts = append(opts, "blksize", strconv.Itoa(t.block))
	}
	if r.window != 0 {
		t.window = min(r.window, maxWindow)
		opts = append(opts, "windowsize", strconv.Itoa(t.window))
	}
	if r.timeout != 0 {
		t.timeout = r.timeout
		opts = append(opts, "timeout", strconv.Itoa(int(r.timeout/time.Second)))
	}
	if info, err := t.file.Stat(); err == nil && r.size && !r.ascii {
		opts = append(opts, "tsize", strconv.FormatInt(info.Size(), 10))
	}
	if len(opts) == 0 {
		return
	}
	t.options = []byte{0, opOptions}
	for _, o := range opts {
		t.options = append(append(t.options, o...), 0)
	}
}

// skip has the transfer begin with a block other than the first: what a former process
// did of it is done. first is 0 where that was nothing, or not acknowledged.
func (t *transfer) skip(first uint64) error {
	if first == 0 || first == 1 && t.options == nil {
		return nil
	}
	t.options, t.first = nil, first
	done := int64(first-1) * int64(t.block)
	var err error
	if t.data == io.Reader(t.file) {
		_, err = t.file.Seek(done, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, t.data, done)
	}
	if err != nil {
		return fmt.Errorf("going on with block %d: %w", first, err)
	}
	return nil
}

// handle takes a packet of the guest, whose header is complete.
func (t *transfer) handle(b []byte) {
	switch b[1] {
	case opAck:
		select {
		case t.acks <- binary.BigEndian.Uint16(b[2:]):
		default: // the guest sends more of them than it was sent packets
		}
	case opError:
		select {
		case t.abort <- struct{}{}:
		default:
		}
	}
}

// run sends the file. The guest is told when it can't be read.
func (t *transfer) run(ctx context.Context) error {
	if t.options != nil {
		t.first, t.out = 0, [][]byte{t.options} // acknowledged as block 0
	}
	for {
		if err := t.fill(); err != nil {
			return errors.Join(err, t.send(append([]byte{0, opError, 0, 0}, "the file can't be read\x00"...)))
		}
		if len(t.out) == 0 {
			return nil
		}
		if err := t.exchange(ctx); err != nil {
			return err
		}
	}
}

// fill reads blocks until the window is full. Nothing goes along with the answer
// to options.
func (t *transfer) fill() error {
	for len(t.out) < t.window && !t.ended && !(t.first == 0 && len(t.out) > 0) {
		p := make([]byte, header+t.block)
		n, err := io.ReadFull(t.data, p[header:])
		switch {
		// RFC 1350, section 6: "The end of a transfer is marked by a DATA packet that
		// contains between 0 and 511 bytes of data".
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			t.ended = true
		case err != nil:
			return fmt.Errorf("reading: %w", err)
		}
		p[1] = opData
		binary.BigEndian.PutUint16(p[2:], uint16(t.first+uint64(len(t.out))))
		t.out = append(t.out, p[:header+n])
	}
	return nil
}

// exchange sends the window, again if need be, until a part of it is
// acknowledged.
func (t *transfer) exchange(ctx context.Context) error {
	for range maxRetries {
		for _, p := range t.out {
			if err := t.send(p); err != nil {
				return fmt.Errorf("sending: %w", err)
			}
		}
		acked, err := t.wait(ctx)
		if err != nil {
			return err
		}
		if acked > 0 {
			t.out = t.out[acked:]
			t.first += uint64(acked)
			t.acked(t.first)
			return nil
		}
	}
	return errors.New("the guest does not answer")
}

// wait returns how many packets of the window the guest has, 0 when it does not
// say in time. RFC 7440, section 4: what follows the acknowledged block is sent
// next. An acknowledgement of an earlier block is no reason to send again (RFC
// 1123, section 4.2.3.1).
func (t *transfer) wait(ctx context.Context) (int, error) {
	timer := time.NewTimer(t.timeout)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-t.abort:
			return 0, errAborted
		case <-timer.C:
			return 0, nil
		case ack := <-t.acks:
			if n := int(ack-uint16(t.first)) + 1; n <= len(t.out) {
				return n, nil
			}
		}
	}
}
