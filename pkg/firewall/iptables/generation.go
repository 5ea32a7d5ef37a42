package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// nftables numbers the states of a network namespace's rule set: every commit,
// of either family and by any program, makes a new generation. As long as the
// number is the same, nothing has changed. iptables-legacy is not counted.

// nfgenmsgSize is the size of the struct nfgenmsg, the header of netfilter's
// messages. (linux/netfilter/nfnetlink.h)
const nfgenmsgSize = 4

// generation is one state of the rule set, and who made it.
type generation struct {
	id      uint32
	process string // the program's name, cut to 15 characters by the kernel
}

// nftSocket is a netlink socket to nftables.
type nftSocket struct {
	file *os.File
	seq  uint32
	buf  []byte
}

// The sizes of a socket's buffers in bytes: for the rules of some thousand
// networks, and for the answer to the largest transaction that has its rules
// echoed.
const (
	sendBuffer    = 32 << 20
	receiveBuffer = 4 << 20
)

// openNFT opens a socket that is a member of the multicast groups.
func openNFT(groups uint32) (*nftSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket to nftables: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("binding a netlink socket to nftables: %w", err), unix.Close(fd))
	}
	// A transaction goes in one write. Without the privilege to have larger buffers
	// the large ones are refused, and go by iptables.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	return &nftSocket{file: os.NewFile(uintptr(fd), "nftables"), buf: make([]byte, 1<<16)}, nil
}

// close closes the socket, which ends a pending receive.
func (s *nftSocket) close() error { return s.file.Close() }

// receive waits for the next datagram. The bytes are valid until the next call.
func (s *nftSocket) receive() ([]byte, error) {
	n, err := s.file.Read(s.buf)
	return s.buf[:max(n, 0)], err
}

// next is a number for the next message.
func (s *nftSocket) next() uint32 {
	s.seq++
	return s.seq
}

// answerTime is how long the kernel may take to answer. It answers before the
// request's write returns; the limit only ends what would hang.
const answerTime = 5 * time.Second

// send sends messages whose answer is awaited.
func (s *nftSocket) send(messages []byte) error {
	if err := s.file.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	_, err := s.file.Write(messages)
	return err
}

// current asks for the present generation.
func (s *nftSocket) current() (uint32, error) {
	seq := s.next()
	if err := s.send(nftMessage(unix.NFT_MSG_GETGEN, unix.NLM_F_REQUEST, seq, 0, nil)); err != nil {
		return 0, fmt.Errorf("asking nftables for its generation: %w", err)
	}
	for {
		datagram, err := s.receive()
		if err != nil {
			return 0, fmt.Errorf("asking nftables for its generation: %w", err)
		}
		for m := range netlinkMessages(datagram) {
			switch {
			case m.seq != seq:
			case m.kind == unix.NLMSG_ERROR:
				return 0, fmt.Errorf("asking nftables for its generation: %w", m.errno())
			default:
				if g, ok := m.generation(); ok {
					return g.id, nil
				}
			}
		}
	}
}

// netlinkMessage is one message of a datagram.
type netlinkMessage struct {
	kind  uint16
	flags uint16
	seq   uint32
	body  []byte
}

// netlinkMessages yields the messages of a datagram. A message that is not
// complete ends it.
func netlinkMessages(b []byte) func(yield func(netlinkMessage) bool) {
	return func(yield func(netlinkMessage) bool) {
		for len(b) >= unix.NLMSG_HDRLEN {
			size := binary.NativeEndian.Uint32(b)
			if size < unix.NLMSG_HDRLEN || uint64(size) > uint64(len(b)) {
				return
			}
			m := netlinkMessage{
				kind:  binary.NativeEndian.Uint16(b[4:]),
				flags: binary.NativeEndian.Uint16(b[6:]),
				seq:   binary.NativeEndian.Uint32(b[8:]),
				body:  b[unix.NLMSG_HDRLEN:size],
			}
			if !yield(m) {
				return
			}
			b = b[min(uint64(align4(int(size))), uint64(len(b))):]
		}
	}
}

// align4 rounds up to the alignment of netlink's messages and attributes.
func align4(n int) int { return (n + 3) &^ 3 }

// errno is the fault in an NLMSG_ERROR, nil for an acknowledgement.
func (m netlinkMessage) errno() error {
	if len(m.body) < 4 {
		return errors.New("short netlink error")
	}
	if code := int32(binary.NativeEndian.Uint32(m.body)); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// is reports whether the message is nftables' one of that name.
func (m netlinkMessage) is(message uint16) bool {
	return m.kind == unix.NFNL_SUBSYS_NFTABLES<<8|message
}

// attributes are those behind the struct nfgenmsg.
func (m netlinkMessage) attributes() func(yield func(uint16, []byte) bool) {
	return attributes(m.body[min(nfgenmsgSize, len(m.body)):])
}

// attributes yields the type and the value of each attribute. One that is not
// complete ends it.
func attributes(b []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		const header = 4
		for len(b) >= header {
			size := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if size < header || size > len(b) || !yield(kind, b[header:size]) {
				return
			}
			b = b[min(align4(size), len(b)):]
		}
	}
}

// generation reads an NFT_MSG_NEWGEN.
func (m netlinkMessage) generation() (g generation, ok bool) {
	if !m.is(unix.NFT_MSG_NEWGEN) {
		return g, false
	}
	for kind, value := range m.attributes() {
		switch {
		case kind == unix.NFTA_GEN_ID && len(value) == 4:
			g.id, ok = binary.BigEndian.Uint32(value), true
		case kind == unix.NFTA_GEN_PROC_NAME:
			g.process = strings.TrimRight(string(value), "\x00")
		}
	}
	return g, ok
}

// nftMessage is a message of nftables; f is 0 for no family.
func nftMessage(message, flags uint16, seq uint32, family uint8, attributes []byte) []byte {
	return netfilterMessage(unix.NFNL_SUBSYS_NFTABLES<<8|message, flags, seq, family, 0, attributes)
}

// netfilterMessage puts the netlink header and the struct nfgenmsg before the
// attributes.
func netfilterMessage(kind, flags uint16, seq uint32, family uint8, resource uint16, attributes []byte) []byte {
	size := unix.NLMSG_HDRLEN + nfgenmsgSize + len(attributes)
	b := make([]byte, 0, size)
	b = binary.NativeEndian.AppendUint32(b, uint32(size))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, family, unix.NFNETLINK_V0)
	b = binary.BigEndian.AppendUint16(b, resource)
	return append(b, attributes...)
}

// appendAttribute appends one attribute with its padding.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, align4(len(value))-len(value))...)
}

// Watch is firewall.Writer's: it is called for every commit to nftables.
func (w *Writer) Watch(ctx context.Context, changed func()) error {
	socket, err := openNFT(1 << (unix.NFNLGRP_NFTABLES - 1))
	if err != nil {
		w.log.Info("no notifications of changes of the firewall", "error", err)
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = socket.close() })
	defer func() {
		if stop() {
			_ = socket.close()
		}
	}()
	for {
		datagram, err := socket.receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			// More happened than the socket holds: look at all of it.
			changed()
		case err != nil:
			return fmt.Errorf("listening to nftables: %w", err)
		}
		for m := range netlinkMessages(datagram) {
			if g, ok := m.generation(); ok {
				w.heard(g)
				changed()
			}
		}
	}
}

// heard notes who made a generation.
func (w *Writer) heard(g generation) {
	w.heardMu.Lock()
	defer w.heardMu.Unlock()
	if g.process != "" {
		w.made = append(w.made, g)
	}
}

// Others is firewall.Writer's.
func (w *Writer) Others() []string {
	w.heardMu.Lock()
	made := w.made
	w.made = nil
	w.heardMu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	var programs []string
	for _, g := range made {
		if !w.cache.ours[g.id] {
			programs = append(programs, g.process)
		}
	}
	clear(w.cache.ours)
	return programs
}
