package arrival_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd/arrival"
	"github.com/vnetd/vnetd/pkg/dnsd/mmsg"
)

// serve opens a server on the loopback device.
func serve(t *testing.T, address string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	server, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return server, server.LocalAddr().(*net.UDPAddr).AddrPort()
}

// dial opens a socket that is watched.
func dial(t *testing.T, w *arrival.Watch, server netip.AddrPort) *arrival.Socket {
	t.Helper()
	s, err := arrival.Dial(server, new(arrival.Memo))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := w.Add(s); err != nil {
		t.Fatal(err)
	}
	return s
}

// watch makes a Watch.
func watch(t *testing.T) *arrival.Watch {
	t.Helper()
	w, err := arrival.NewWatch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// messages are datagrams to be sent.
func messages(texts ...string) []mmsg.Message {
	all := make([]mmsg.Message, len(texts))
	for i, text := range texts {
		v := &unix.Iovec{Base: &[]byte(text)[0]}
		v.SetLen(len(text))
		all[i].Header.Iov = v
		all[i].Header.SetIovlen(1)
	}
	return all
}

// answer has server answer the next n questions, and returns its answers.
func answer(t *testing.T, server *net.UDPConn, n int) (all []string) {
	t.Helper()
	buf := make([]byte, 100)
	for range n {
		n, from, err := server.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%s of %s", buf[:n], server.LocalAddr())
		if _, err := server.WriteTo([]byte(text), from); err != nil {
			t.Fatal(err)
		}
		all = append(all, text)
	}
	return all
}

// hear returns the next n datagrams that come in at sockets, by descriptor.
func hear(t *testing.T, w *arrival.Watch, sockets map[int]*arrival.Socket, n int) map[int][]string {
	t.Helper()
	in := arrival.NewInbox()
	defer in.Release()
	heard := make(map[int][]string)
	for n > 0 {
		ready, err := w.Next()
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range ready {
			some, err := sockets[fd].Receive(in)
			if err != nil || some == 0 {
				t.Fatalf("%d datagrams, %v", some, err)
			}
			for i := range some {
				msg, ok := sockets[fd].Datagram(in, i)
				if !ok {
					t.Errorf("%s is taken for a guest's", msg)
				}
				heard[fd] = append(heard[fd], string(msg))
			}
			n -= some
		}
	}
	return heard
}

// What servers send to sockets comes in, in whichever of them, each with its own.
func TestHears(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link set lo up")
		w := watch(t)
		want, sockets := make(map[int][]string), make(map[int]*arrival.Socket)
		for _, address := range []string{"127.0.0.1:0", "127.0.0.2:0", "[::1]:0"} {
			server, at := serve(t, address)
			s := dial(t, w, at)
			sockets[s.Descriptor()] = s
			s.SendAll(messages("one", "two", "three"), func(i int, err error) { t.Errorf("question %d: %v", i, err) })
			if err := s.Send([]byte("four")); err != nil {
				t.Fatal(err)
			}
			want[s.Descriptor()] = answer(t, server, 4)
		}
		got := hear(t, w, sockets, 12)
		in := arrival.NewInbox()
		defer in.Release()
		for fd, s := range sockets {
			if !slices.Equal(got[fd], want[fd]) {
				t.Errorf("got %q, want %q", got[fd], want[fd])
			}
			if n, err := s.Receive(in); n != 0 || err != nil {
				t.Errorf("nothing is there: %d, %v", n, err)
			}
		}
	})
}

// Where no server is, that is said.
func TestRefused(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link set lo up")
		w := watch(t)
		s := dial(t, w, netip.MustParseAddrPort("127.0.0.1:53"))
		if err := s.Send([]byte("question")); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Next(); err != nil {
			t.Fatal(err)
		}
		in := arrival.NewInbox()
		defer in.Release()
		if _, err := s.Receive(in); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("the error is %v", err)
		}
		if _, err := arrival.Dial(netip.MustParseAddrPort("192.0.2.1:53"), new(arrival.Memo)); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("without a route: %v", err)
		}
		if _, err := arrival.Dial(netip.MustParseAddrPort("[fe80::1%nothere]:53"), new(arrival.Memo)); err == nil {
			t.Error("an interface that is not there is one")
		}
	})
}

// No epoll of this process waits for room to send at a socket, which the kernel tells of with
// each datagram that has gone.
func TestQuestionsWakeNobody(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link set lo up")
		_, at := serve(t, "127.0.0.1:0")
		nstest.WatchedForInput(t, dial(t, watch(t), at).Descriptor())
	})
}

// A wait ends by a deadline, which can be taken back, and by Close.
func TestEnds(t *testing.T) {
	w := watch(t)
	if err := w.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	if err := w.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := w.Next()
		ended <- err
	}()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after Close: %v", err)
	}
}
