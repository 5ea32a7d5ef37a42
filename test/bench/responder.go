package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// responderProgram is the name under which the bench is a program that answers
// every query for an address over UDP, many with one call and with as little work
// as Go allows: what no name server in Go can be faster than. It takes an
// address and port and a time to wait before each answer.
const responderProgram = "responder"

// respond is the program.
func respond(args []string) int {
	if len(args) != 2 {
		return 2
	}
	wait, err := time.ParseDuration(args[1])
	if err == nil {
		err = serveResponses(args[0], wait)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// responderBatch is the number of messages that one call reads or writes, and
// responderQueue of such batches that wait for their time.
const (
	responderBatch = 32
	responderQueue = 1 << 14
)

// late is answers that wait for their time.
type late struct {
	due     time.Time
	replies []ipv4.Message
}

// serveResponses answers until reading fails.
func serveResponses(address string, wait time.Duration) error {
	conn, err := net.ListenPacket("udp4", address)
	if err != nil {
		return err
	}
	if err := enlarge(conn.(*net.UDPConn)); err != nil {
		return err
	}
	batch := ipv4.NewPacketConn(conn)
	in := make([]ipv4.Message, responderBatch)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, 512, 600)}
	}
	queue := make(chan late, responderQueue)
	if wait > 0 {
		go sendLate(batch, queue)
	}
	for {
		n, err := batch.ReadBatch(in, 0)
		if err != nil {
			return err
		}
		var out []ipv4.Message
		for i := range in[:n] {
			reply := addressReply(in[i].Buffers[0][:in[i].N])
			if reply == nil {
				continue
			}
			if wait > 0 {
				reply = bytes.Clone(reply)
			}
			out = append(out, ipv4.Message{Buffers: [][]byte{reply}, Addr: in[i].Addr})
		}
		if wait > 0 {
			queue <- late{time.Now().Add(wait), out}
		} else if err := sendAll(batch, out); err != nil {
			return err
		}
	}
}

// sendAll sends answers, many with one call.
func sendAll(conn *ipv4.PacketConn, out []ipv4.Message) error {
	for len(out) > 0 {
		n, err := conn.WriteBatch(out, 0)
		if err != nil {
			return err
		}
		out = out[n:]
	}
	return nil
}

// enlarge gives the socket a buffer in which nothing is lost while the machine is
// busy with the server that is measured.
func enlarge(c *net.UDPConn) error {
	conn, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	err = conn.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	})
	return errors.Join(err, optErr)
}

// sendLate sends answers when their time has come.
func sendLate(conn *ipv4.PacketConn, queue <-chan late) {
	for l := range queue {
		time.Sleep(time.Until(l.due))
		_ = sendAll(conn, l.replies)
	}
}

// addressReply makes query, whose buffer has room, its own answer: 192.0.2.1, to
// be kept for an hour if the name begins with "c", else not at all. It is nil for
// what is no query.
func addressReply(query []byte) []byte {
	const header, types, opt = 12, 4, 11
	if len(query) < header+types+1 || query[2]&0x80 != 0 {
		return nil
	}
	end := header + bytes.IndexByte(query[header:], 0) + 1 + types
	if end > len(query) {
		return nil
	}
	var ttl uint32
	if query[header+1] == 'c' || query[header+1] == 'C' {
		ttl = 3600
	}
	reply := query[:end]
	reply[2], reply[3] = query[2]|0x84, 0x80          // QR, AA, RA
	copy(reply[4:], []byte{0, 1, 0, 1, 0, 0, 0, 0})   // one question, one answer
	reply = append(reply, 0xc0, header, 0, 1, 0, 1)   // the question's name, A, IN
	reply = binary.BigEndian.AppendUint32(reply, ttl) // until when it may be kept
	return append(reply, 0, net.IPv4len, 192, 0, 2, 1)
}

// startResponder runs the program until b ends.
func startResponder(b *bench, address string, wait time.Duration) {
	self, err := os.Executable()
	if err != nil {
		b.Fatalf("finding the bench's program: %w", err)
	}
	dir, err := os.MkdirTemp(b.dir, "responder-")
	if err != nil {
		b.Fatalf("making a folder: %w", err)
	}
	path := filepath.Join(dir, responderProgram)
	b.link(self, path)
	b.launch(exec.CommandContext(b.cleanupContext(), path, address, wait.String()))
}

// launch runs a server until b ends.
func (b *bench) launch(cmd *exec.Cmd) {
	complaints := new(bytes.Buffer)
	cmd.Stderr = complaints
	if err := cmd.Start(); err != nil {
		b.Fatalf("starting %s: %w", cmd.Path, err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		if exit := new(exec.ExitError); !errors.As(cmd.Wait(), &exit) || exit.Exited() {
			b.Logf("%s ended by itself: %s", cmd.Path, complaints)
		}
	})
}

// startUpstreams runs the servers to which is forwarded.
func startUpstreams(b *bench) {
	nstest.IP(b, "link set lo up")
	startResponder(b, dnsUpAddr+":53", 0)
	startResponder(b, dnsLate+":53", dnsLatency)
}
