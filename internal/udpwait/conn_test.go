package udpwait_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/internal/udpwait"
)

// open opens a Conn on the loopback device, and a client of it.
func open(t *testing.T) (*udpwait.Conn, *net.UDPConn) {
	t.Helper()
	server, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.DialUDP("udp4", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	c, err := udpwait.New(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, client
}

// receive waits for a datagram.
func receive(c *udpwait.Conn) (text string, from unix.Sockaddr, err error) {
	buf := make([]byte, 100)
	var n int
	var failed error
	err = c.Read(func(fd uintptr) bool {
		n, from, failed = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
		return !errors.Is(failed, unix.EAGAIN)
	})
	return string(buf[:max(n, 0)]), from, errors.Join(err, failed)
}

// Each datagram that comes in ends the wait for it, be it after others or after answers.
func TestHears(t *testing.T) {
	c, client := open(t)
	for i := range 1000 {
		asked := fmt.Sprint("question ", i)
		if _, err := client.Write([]byte(asked)); err != nil {
			t.Fatal(err)
		}
		got, from, err := receive(c)
		if err != nil || got != asked {
			t.Fatalf("got %q, %v; want %q", got, err, asked)
		}
		if err := c.Write(func(fd uintptr) bool { err = unix.Sendto(int(fd), []byte(got), unix.MSG_DONTWAIT, from); return true }); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if n, err := client.Read(buf); err != nil || string(buf[:n]) != asked {
			t.Fatalf("answered %q, %v; want %q", buf[:n], err, asked)
		}
	}
}

// No epoll of this process waits for room to send at the socket, which the kernel tells of with
// each datagram that has gone.
func TestAnswersWakeNobody(t *testing.T) {
	c, _ := open(t)
	var socket int
	if err := c.Control(func(fd uintptr) { socket = int(fd) }); err != nil {
		t.Fatal(err)
	}
	nstest.WatchedForInput(t, socket)
}

// A wait ends by a deadline, which can be taken back, and by Close; a copy goes on with what
// waits in the socket.
func TestEnds(t *testing.T) {
	c, client := open(t)
	if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := receive(c); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, _, err := receive(c)
		ended <- err
	}()
	left, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = left.Close() }()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := client.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	again, err := net.FilePacketConn(left)
	if err != nil {
		t.Fatal(err)
	}
	next, err := udpwait.New(again.(*net.UDPConn))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = next.Close() }()
	if got, _, err := receive(next); err != nil || got != "late" {
		t.Errorf("the copy got %q, %v", got, err)
	}
}
