package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// handoverXML has all that serves: DHCP of both families, DNS on two addresses.
const handoverXML = `<network xmlns:vnetd='urn:vnetd:network:1'>
  <name>lab</name>
  <forward mode='nat'/>
  <bridge name='virbr7' stp='off'/>
  <domain name='lab.example' localOnly='yes'/>
  <dns><host ip='192.0.2.9'><hostname>nine</hostname></host></dns>
  <ip address='192.0.2.1' netmask='255.255.255.0'><tftp root='/run/boot'/><dhcp><range start='192.0.2.10' end='192.0.2.99'/></dhcp></ip>
  <ip family='ipv6' address='2001:db8:7::1' prefix='64'><dhcp><range start='2001:db8:7::10' end='2001:db8:7::99'/></dhcp></ip>
</network>`

// TestRestartLosesNothing restarts vnetd as systemd does, under 1,000 queries a
// second. What is asked while there is no vnetd is answered by the next one.
func TestRestartLosesNothing(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		boot := bootFile(t, "/run/boot")
		v := l.StartVnetd()
		if err := l.VnetctlInput(t.Context(), handoverXML, "create", "-").Err(); err != nil {
			t.Fatal(err)
		}
		guest := nstest.Guest(t, "virbr7", "guest", "52:54:00:00:00:07")
		guest.IP("addr add 192.0.2.7/24 dev eth0")
		guest.IP("-6 addr add 2001:db8:7::7/64 dev eth0 nodad")
		guest.IP("route add default via 192.0.2.1")
		late := nstest.Guest(t, "virbr7", "late", "52:54:00:00:00:08")
		load := startLoad(t, guest)
		beats := startStream(t, l.LAN, guest)
		connections := []*dns.Conn{dialTCP(t, guest, "192.0.2.1:53"), dialTCP(t, guest, "[2001:db8:7::1]:53")}
		download := startDownloadTFTP(t, guest, boot)
		load.reaches(t, 500)
		beats.reaches(t, 20)
		download.reaches(t, 100)

		left, err := v.Leave(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// Nobody serves now.
		load.reaches(t, 500)
		beats.reaches(t, 20)
		ends := make(chan error, 5)
		var bound string
		go func() { var err error; bound, err = discoverOnce(t, late); ends <- err }()
		go func() { ends <- askTCP(guest, "192.0.2.1:53") }()
		go func() { ends <- askTCP(guest, "[2001:db8:7::1]:53") }()
		for _, c := range connections {
			go func() { ends <- askOn(c) }()
		}
		for _, queue := range []string{"udp :0035", "udp :0043", "tcp :0035", "tcp6 :0035"} {
			waitQueued(t, queue)
		}

		l.StartVnetdWith(append(left, unixListener(t, "/run/libvirt/virtnetworkd-sock-ro")))
		load.reaches(t, 500)
		beats.reaches(t, 20)
		load.end(t)
		download.end(t)
		for range cap(ends) {
			if err := <-ends; err != nil {
				t.Error(err)
			}
		}
		if !strings.HasPrefix(bound, "192.0.2.") {
			t.Errorf("the client who asked once while there was no vnetd got %q", bound)
		}
		if out := nstest.Exec(t, "virsh", "-r", "-c", "network:///system", "net-list", "--name"); !strings.Contains(out, "lab") {
			t.Errorf("libvirt's client, by the socket of a socket unit, lists %q", out)
		}
		// The sockets are vnetd's alone: a network that stops has none.
		vnetctl(t, l, "stop", "lab")
		for _, protocol := range []string{"udp", "udp6", "tcp", "tcp6"} {
			for _, port := range []string{":0035", ":0043", ":0223"} {
				if lines := socketLines(t, protocol, port); len(lines) > 0 {
					t.Errorf("after the network was stopped: %s %q", protocol, lines)
				}
			}
		}
	})
}

// TestRedefineLosesNothing gives an active network other services, so that others take the
// place of those that it has, under 1,000 queries a second.
func TestRedefineLosesNothing(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		boot := bootFile(t, "/run/boot")
		v := l.StartVnetd()
		before, after, _ := strings.Cut(handoverXML, "  <ip family='ipv6'")
		_, after, _ = strings.Cut(after, "</ip>\n")
		if err := l.VnetctlInput(t.Context(), before+after, "create", "-").Err(); err != nil {
			t.Fatal(err)
		}
		guest := nstest.Guest(t, "virbr7", "guest", "52:54:00:00:00:07")
		guest.IP("addr add 192.0.2.7/24 dev eth0")
		load, download := startLoad(t, guest), startDownloadTFTP(t, guest, boot)
		conn := dialTCP(t, guest, "192.0.2.1:53")
		load.reaches(t, 300)
		download.reaches(t, 100)
		few := v.Stored()
		if err := l.VnetctlInput(t.Context(), handoverXML, "define", "-").Err(); err != nil {
			t.Fatal(err)
		}
		if err := askOn(conn); err != nil {
			t.Error(err)
		}
		load.reaches(t, 300)
		load.end(t)
		download.end(t)
		// DHCPv6, router advertisements, DNS over both protocols on two addresses of IPv6.
		if now := v.Stored(); len(now) != len(few)+6 || len(socketLines(t, "udp6", ":0223")) != 1 {
			t.Errorf("the service manager keeps %q, before it had %q", now, few)
		}
	})
}

// count is something that goes on.
type count struct {
	what string
	n    atomic.Int64
	done chan struct{} // closed when it does not any more
	err  error         // why, once done is closed
}

// reaches waits for n more, however long they take.
func (c *count) reaches(t *testing.T, n int64) {
	t.Helper()
	from := c.n.Load()
	nstest.Eventually(t, limit, fmt.Sprintf("%d more %s", n, c.what), func() error {
		select {
		case <-c.done:
			return fmt.Errorf("they ended: %w", c.err)
		default:
		}
		if now := c.n.Load(); now < from+n {
			return fmt.Errorf("%d are there", now-from)
		}
		return nil
	})
}

// load is a client who asks without waiting for answers.
type load struct {
	count    // of queries sent
	stop     context.CancelFunc
	mu       sync.Mutex
	waiting  map[uint16]string // what was not answered yet, by id
	listened chan struct{}
	conn     *net.UDPConn
	refused  atomic.Int64 // how often the host said that nobody serves
}

// upstreamEvery is how many queries there are for one that the LAN's name server is
// asked. Only 1,000 such queries of one guest may wait, so that even a restart of
// eight seconds loses none.
const upstreamEvery = 8

// startLoad has the guest ask 1,000 times a second for a name of the network, and now
// and then for one that the LAN's name server is asked for.
func startLoad(t *testing.T, guest *nstest.NS) *load {
	t.Helper()
	var conn *net.UDPConn
	err := guest.Do(func() error {
		c, err := net.Dial("udp", "192.0.2.1:53")
		if err != nil {
			return err
		}
		conn = c.(*net.UDPConn)
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		// The answers to all that waited come at once.
		return errors.Join(err, raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
		}), err)
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{
		count: count{what: "queries", done: make(chan struct{})},
		stop:  cancel, waiting: make(map[uint16]string), listened: make(chan struct{}), conn: conn,
	}
	go l.listen(conn)
	go l.ask(ctx, conn)
	t.Cleanup(func() {
		cancel()
		<-l.done
		_ = conn.Close()
		<-l.listened
	})
	return l
}

// ask sends queries until ctx ends.
func (l *load) ask(ctx context.Context, conn *net.UDPConn) {
	defer close(l.done)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		id := uint16(l.n.Load())
		name := "nine.lab.example."
		if id%upstreamEvery == 0 {
			name = fmt.Sprintf("%d.example.", id)
		}
		l.mu.Lock()
		l.waiting[id] = name
		l.mu.Unlock()
		if l.err = query(conn, id, name); l.err != nil { // ECONNREFUSED: an earlier one was refused
			return
		}
		l.n.Add(1)
	}
}

// query sends a query.
func query(conn net.Conn, id uint16, name string) error {
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	m.Id = id
	packed, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = conn.Write(packed)
	return err
}

// askAgain stops asking, and asks again what was not answered, as clients do after some
// seconds, once answers have ceased to come. It returns how many queries that are.
func (l *load) askAgain(t *testing.T) int {
	t.Helper()
	l.stop()
	<-l.done
	rest := func() map[uint16]string {
		l.mu.Lock()
		defer l.mu.Unlock()
		return maps.Clone(l.waiting)
	}
	lost := rest()
	for range 30 {
		time.Sleep(time.Second)
		before := len(lost)
		if lost = rest(); len(lost) == before {
			break
		}
	}
	for id, name := range lost {
		if err := query(l.conn, id, name); err != nil {
			t.Errorf("asking again for %s: %v", name, err)
		}
	}
	return len(lost)
}

// listen takes answers until conn is closed.
func (l *load) listen(conn *net.UDPConn) {
	defer close(l.listened)
	b := make([]byte, 1500)
	for {
		n, err := conn.Read(b)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, unix.ECONNREFUSED):
			l.refused.Add(1)
		}
		m := new(dns.Msg)
		if err != nil || m.Unpack(b[:n]) != nil || m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused {
			continue
		}
		l.mu.Lock()
		delete(l.waiting, m.Id)
		l.mu.Unlock()
	}
}

// end stops asking and wants every query answered.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	<-l.done
	if n := l.refused.Load(); l.err != nil || n > 0 {
		t.Errorf("after %d queries: %v; %d were refused", l.n.Load(), l.err, n)
	}
	nstest.Eventually(t, limit, "all queries are answered", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.waiting) > 0 {
			return fmt.Errorf("%d of %d are not: %.500v", len(l.waiting), l.n.Load(), l.waiting)
		}
		return nil
	})
	t.Logf("%d queries, all answered", l.n.Load())
}

// startStream opens a TCP connection from the guest to the LAN, on which both say
// something in turns, and counts the turns.
func startStream(t *testing.T, lan, guest *nstest.NS) *count {
	t.Helper()
	var listener net.Listener
	var conn net.Conn
	err := errors.Join(
		lan.Do(func() (err error) { listener, err = net.Listen("tcp", nstest.LANHost+":7"); return err }),
		guest.Do(func() (err error) { conn, err = net.Dial("tcp", nstest.LANHost+":7"); return err }),
	)
	if err != nil {
		t.Fatal(err)
	}
	echo, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	echoed := make(chan struct{})
	go func() { defer close(echoed); _, _ = io.Copy(echo, echo) }()
	c := &count{what: "turns of the guest's connection", done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for b := make([]byte, 1); ; c.n.Add(1) {
			if _, c.err = conn.Write(b); c.err != nil {
				return
			}
			if _, c.err = io.ReadFull(conn, b); c.err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-c.done; <-echoed; _, _ = echo.Close(), listener.Close() })
	return c
}

// discoverOnce runs a DHCP client that asks once and then waits, and returns the
// address that it got.
func discoverOnce(t *testing.T, guest *nstest.NS) (string, error) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" != bound ] || echo $ip\n"), 0o755); err != nil {
		return "", err
	}
	out, err := guest.Command(t.Context(), "busybox", "udhcpc", "-f", "-q", "-n", "-t", "1", "-T", "60", "-i", "eth0", "-s", script).Output()
	return strings.TrimSpace(string(out)), err
}

// askTCP asks for the network's name over TCP, once.
func askTCP(guest *nstest.NS, at string) error {
	var conn net.Conn
	if err := guest.Do(func() (err error) { conn, err = net.Dial("tcp", at); return err }); err != nil {
		return err
	}
	c := &dns.Conn{Conn: conn}
	defer func() { _ = c.Close() }()
	return askOn(c)
}

// dialTCP opens a connection and asks for a name on it.
func dialTCP(t *testing.T, guest *nstest.NS, at string) *dns.Conn {
	t.Helper()
	var conn net.Conn
	if err := guest.Do(func() (err error) { conn, err = net.Dial("tcp", at); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &dns.Conn{Conn: conn}
	if err := askOn(c); err != nil {
		t.Fatal(err)
	}
	return c
}

// askOn asks for the network's name on a connection.
func askOn(c *dns.Conn) error {
	if err := errors.Join(c.SetDeadline(time.Now().Add(limit)), c.WriteMsg(new(dns.Msg).SetQuestion("nine.lab.example.", dns.TypeA))); err != nil {
		return err
	}
	m, err := c.ReadMsg()
	if err != nil || len(m.Answer) != 1 {
		return fmt.Errorf("asking %v: %v, %w", c.RemoteAddr(), m, err)
	}
	return nil
}

// unixListener is a socket that a socket unit makes.
func unixListener(t *testing.T, path string) *os.File {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return fileOf(t, l, "vnetd-libvirt-ro.socket") // what systemd calls it
}

// fileOf is a copy of a socket, under a name.
func fileOf(t *testing.T, socket interface{ File() (*os.File, error) }, name string) *os.File {
	t.Helper()
	f, err := socket.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), name)
}

// waitQueued waits until something waits in a socket of this host: "PROTOCOL :PORT",
// as /proc/net names them.
func waitQueued(t *testing.T, socket string) {
	t.Helper()
	protocol, port, _ := strings.Cut(socket, " ")
	nstest.Eventually(t, limit, "something waits in "+socket, func() error {
		lines := socketLines(t, protocol, port)
		for _, line := range lines {
			if queues := strings.Fields(line)[4]; !strings.HasSuffix(queues, ":00000000") {
				return nil
			}
		}
		return errors.New(strings.Join(lines, "\n"))
	})
}

// socketLines are the lines of /proc/net about the sockets that serve a port. The
// process's first thread, whose /proc/net that is, may be in another namespace.
func socketLines(t *testing.T, protocol, port string) (lines []string) {
	t.Helper()
	const bound, listens = "07", "0A" // a UDP socket, a TCP socket
	table, err := os.ReadFile("/proc/thread-self/net/" + protocol)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(table), "\n") {
		if f := strings.Fields(line); len(f) > 4 && strings.HasSuffix(f[1], port) && (f[3] == bound || f[3] == listens) {
			lines = append(lines, line)
		}
	}
	return lines
}
