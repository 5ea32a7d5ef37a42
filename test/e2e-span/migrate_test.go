package e2espan

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

var moves = flag.Int("moves", 50, "how often TestMigration moves its guest")

// vm is a virtual machine on a host.
type vm struct {
	*nstest.QEMU
	host    int
	monitor *nstest.Monitor
}

// boot starts QEMU on a host, with a port by which the guest may be on two hosts. With at it waits for the guest to
// come from there.
func (l *lab) boot(i int, name string, o client.PortOptions, at string) *vm {
	l.Helper()
	o.VnetHdr = true
	var p *client.OpenPort
	nstest.Eventually(l, limit, "the virtual machine has a port", func() (err error) {
		p, err = l.bus[i].RequestPort(l.Context(), "apps", o)
		return err
	})
	defer func() { _ = p.Close() }() // QEMU has it
	socket := filepath.Join(l.TempDir(), "qmp")
	run := `exec "$@" -qmp unix:` + socket + `,server=on,wait=off`
	if at != "" {
		run += " -incoming " + at
	}
	wrap := l.hosts[i].Command(l.Context(), "sh", "-c", run, "sh").Args
	m := &vm{host: i, QEMU: nstest.BootGuest(l.T, nstest.GuestConfig{Name: name, MAC: p.Info.MAC, Netdev: "tap,id=n0,fd=3", Wrap: wrap, Files: p.Files})}
	nstest.Eventually(l, limit, "QEMU's monitor answers", func() (err error) {
		m.monitor, err = nstest.DialMonitor(context.WithoutCancel(l.Context()), socket)
		return err
	})
	l.Cleanup(func() { _ = m.monitor.Close() })
	return m
}

// moved has the machine be moved to another host, and ends QEMU where it was.
func (l *lab) moved(m *vm, to int, name string, o client.PortOptions) (*vm, nstest.Migration) {
	l.Helper()
	at := "unix:" + filepath.Join(l.TempDir(), "migrate")
	is := l.boot(to, name, o, at)
	ctx, cancel := context.WithTimeout(l.Context(), limit)
	defer cancel()
	migration, err := m.monitor.Migrate(ctx, is.monitor, at)
	if err != nil {
		l.Fatal(err)
	}
	return is, migration
}

// echoes is a stream of packets that want an answer, 1,000 a second.
type echoes struct {
	conn net.PacketConn
	to   net.Addr
	stop chan struct{}
	both sync.WaitGroup

	mu       sync.Mutex
	sent     []time.Time
	answered []bool
}

// echoes begins one.
func (g *guest) echoes(address string) *echoes {
	g.l.Helper()
	e := &echoes{to: &net.IPAddr{IP: net.ParseIP(address)}, stop: make(chan struct{})}
	if err := g.Do(func() (err error) {
		e.conn, err = net.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	}); err != nil {
		g.l.Fatal(err)
	}
	e.both.Go(e.read)
	e.both.Go(e.write)
	return e
}

// end ends it.
func (e *echoes) end() {
	close(e.stop)
	_ = e.conn.Close()
	e.both.Wait()
}

// echo is an ICMP echo request (RFC 792), or the answer to one. Its number is behind the header.
const (
	echoRequest, echoReply = 8, 0
	echoHeader, echoSize   = 8, 16
)

func (e *echoes) write() {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	packet := make([]byte, echoSize)
	packet[0] = echoRequest
	for {
		select {
		case <-e.stop:
			return
		case <-pace.C:
		}
		e.mu.Lock()
		n := len(e.sent)
		e.sent, e.answered = append(e.sent, time.Now()), append(e.answered, false)
		e.mu.Unlock()
		packet[2], packet[3] = 0, 0
		binary.BigEndian.PutUint64(packet[echoHeader:], uint64(n))
		binary.BigEndian.PutUint16(packet[2:], nstest.Checksum(packet))
		_, _ = e.conn.WriteTo(packet, e.to) // what is not sent is lost
	}
}

func (e *echoes) read() {
	packet := make([]byte, 1500)
	for {
		n, _, err := e.conn.ReadFrom(packet)
		if err != nil {
			return
		}
		if n != echoSize || packet[0] != echoReply {
			continue
		}
		e.mu.Lock()
		if i := binary.BigEndian.Uint64(packet[echoHeader:]); i < uint64(len(e.answered)) {
			e.answered[i] = true
		}
		e.mu.Unlock()
	}
}

// lost is how many of those that were sent in a time had no answer, and how many there were.
func (e *echoes) lost(from, to time.Time) (lost, sent int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, at := range e.sent {
		if at.Before(from) || at.After(to) {
			continue
		}
		if sent++; !e.answered[i] {
			lost++
		}
	}
	return lost, sent
}

// talk is a connection of TCP to a guest that returns what it gets, in use all the time.
type talk struct {
	conn net.Conn
	err  error
	done chan struct{}
	said uint64
}

// talks begins one.
func (g *guest) talks(address string) *talk {
	g.l.Helper()
	t := &talk{done: make(chan struct{})}
	nstest.Eventually(g.l, limit, "the guest listens", func() error {
		return g.Do(func() (err error) {
			t.conn, err = net.DialTimeout("tcp", address, time.Second)
			return err
		})
	})
	g.l.Cleanup(func() { _ = t.conn.Close() })
	go func() {
		defer close(t.done)
		for t.err == nil {
			t.err = t.exchange()
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return t
}

// exchange sends a number, and wants it back.
func (t *talk) exchange() error {
	if err := t.conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	var back [8]byte
	if _, err := t.conn.Write(binary.BigEndian.AppendUint64(nil, t.said)); err != nil {
		return err
	}
	if _, err := io.ReadFull(t.conn, back[:]); err != nil {
		return err
	}
	if got := binary.BigEndian.Uint64(back[:]); got != t.said {
		return fmt.Errorf("got %d, want %d", got, t.said)
	}
	t.said++
	return nil
}

// end ends it, and fails the test where it had ended before.
func (t *talk) end(l *lab) {
	l.Helper()
	select {
	case <-t.done:
		l.Errorf("the connection did not live: %v", t.err)
	default:
		_ = t.conn.Close()
		<-t.done
		l.Logf("the connection has carried %d numbers", t.said)
	}
}

// entries is when a host's kernel took in what is said of a card.
type entries struct {
	host   string
	mac    net.HardwareAddr
	socket *netlink.Socket
	done   sync.WaitGroup

	mu  sync.Mutex
	all []told
}

// told is that a frame for the card goes to a host of the underlay, invalid where that is a port of this host's bridge.
type told struct {
	at time.Time
	to netip.Addr
}

// watchEntries begins to look at one host.
func (l *lab) watchEntries(i int, mac net.HardwareAddr) *entries {
	l.Helper()
	w := &entries{host: l.hosts[i].Name, mac: mac}
	if err := l.hosts[i].Do(func() (err error) {
		w.socket, err = netlink.Open(unix.NETLINK_ROUTE, unix.RTNLGRP_NEIGH)
		return err
	}); err != nil {
		l.Fatal(err)
	}
	w.done.Go(func() {
		for {
			datagram, err := w.socket.Receive()
			if errors.Is(err, unix.ENOBUFS) {
				continue
			}
			if err != nil {
				return
			}
			for m := range netlink.Messages(datagram) {
				w.take(m)
			}
		}
	})
	return w
}

// end ends it.
func (w *entries) end() {
	_ = w.socket.Close()
	w.done.Wait()
}

func (w *entries) take(m netlink.Message) {
	if m.Type != unix.RTM_NEWNEIGH || len(m.Body) < unix.SizeofNdMsg || m.Body[0] != unix.AF_BRIDGE {
		return
	}
	is := told{at: time.Now()}
	mine := false
	for kind, value := range netlink.Attributes(m.Body[unix.SizeofNdMsg:]) {
		switch kind {
		case unix.NDA_LLADDR:
			mine = slices.Equal(value, w.mac)
		case unix.NDA_DST:
			is.to, _ = netip.AddrFromSlice(value)
		}
	}
	if mine {
		w.mu.Lock()
		w.all = append(w.all, is)
		w.mu.Unlock()
	}
}

// first is the first time since begin at which the card was said to be at a host.
func (w *entries) first(begin time.Time, to netip.Addr) (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, is := range w.all {
		if !is.at.Before(begin) && is.to == to {
			return is.at, true
		}
	}
	return time.Time{}, false
}

// percentile is the value below which so many of 100 are.
func percentile(all []time.Duration, n int) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[min(len(all)*n/100, len(all)-1)]
}

// spare is how many of 1,000 packets a second a move may cost beside those of the guest's own pause.
const spare = 10

// often is how often each machine moves: one that moves more often in a minute counts as two.
const often = 5

// journal is what moves cost.
type journal struct {
	far, near []int           // packets lost beside the pause: of another host, and of the host that it left
	pauses    []time.Duration // that the machine stood still
	first     []time.Duration // from when it ran there to its first frame there
	known     []time.Duration // from then to each other host's kernel
	broken    int             // machines that QEMU broke
}

// watchers are guests that have a machine answer them, and hosts that are told where it is.
type watchers struct {
	from [3]*echoes
	seen [3]*entries
}

// broken is what the kernel of a machine says of whose memory a page was lost: QEMU's emulation of a
// processor does so now and then when it migrates a machine that has much to do.
var broken = regexp.MustCompile(`general protection fault|Kernel panic|BUG:|Oops|page fault`)

// isBroken reports whether QEMU has broken the machine.
func (m *vm) isBroken() bool {
	select {
	case <-m.Done():
		return true
	default:
		return broken.MatchString(m.Console())
	}
}

// move moves the machine to the other one of the second and the third host, and takes down what that cost.
// It returns nil where QEMU has broken it.
func (j *journal) move(l *lab, m *vm, name string, o client.PortOptions, w *watchers) *vm {
	l.Helper()
	was, to, begin := m.host, 3-m.host, time.Now()
	m2, migration := l.moved(m, to, name, o)
	stood := migration.Runs.Add(-migration.Pause)
	at := netip.MustParseAddr(underlay(to))
	nstest.Eventually(l, limit, "all know where it is", func() error {
		for i, e := range w.seen {
			if _, ok := e.first(stood, at); i != to && !ok {
				return errors.New(e.host + " does not")
			}
		}
		return nil
	})
	l.whole(o.MAC.String(), l.hosts[to].Name, migration.Runs)
	time.Sleep(time.Second) // what is on its way has its answer by then, or none
	m.Kill()
	if m2.isBroken() {
		j.broken++
		m2.Kill()
		return nil
	}
	arrived, ok := w.seen[to].first(stood, netip.Addr{})
	if !ok {
		l.Fatalf("h%d has not noticed it", to+1)
	}
	j.pauses, j.first = append(j.pauses, migration.Pause), append(j.first, arrived.Sub(migration.Runs))
	var text strings.Builder
	for i, e := range w.from {
		lost, sent := e.lost(begin, migration.Runs.Add(500*time.Millisecond))
		beside := lost - int(migration.Pause.Milliseconds())
		_, _ = fmt.Fprintf(&text, " %d of %d from h%d;", lost, sent, i+1)
		switch i {
		case 0:
			j.far = append(j.far, beside)
		case was:
			j.near = append(j.near, beside)
		}
		if i != to {
			known, _ := w.seen[i].first(stood, at)
			j.known = append(j.known, known.Sub(arrived))
		}
	}
	l.Logf("h%d to h%d in %v, still for %v: lost%s its first frame %v after it ran, the others know %v later", was+1, to+1, migration.Total, migration.Pause, text.String(), j.first[len(j.first)-1], j.known[len(j.known)-2:])
	return m2
}

// machine boots one, moves it some times, and ends it.
func (j *journal) machine(l *lab, n, moves int, local *[3]*guest) {
	l.Helper()
	name := fmt.Sprint("m", n)
	o := options(name, byte(0x10+n))
	m := l.boot(1, name, o, "")
	lease, err := m.Lease(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	address := lease.Address.Addr().String()
	l.whole(o.MAC.String(), "h2", time.Now())
	if _, status, err := m.Run(l.Context(), "nc -ll -p 5000 -e cat >/dev/null 2>&1 &"); err != nil || status != 0 {
		l.Fatalf("in the guest: %d, %v", status, err)
	}
	stream := local[0].talks(address + ":5000")
	var w watchers
	for i := range local {
		local[i].reaches(address)
		w.from[i], w.seen[i] = local[i].echoes(address), l.watchEntries(i, o.MAC)
		defer w.from[i].end()
		defer w.seen[i].end()
	}
	for range moves {
		if m = j.move(l, m, name, o, &w); m == nil {
			l.Logf("QEMU broke %s", name)
			_ = stream.conn.Close()
			return
		}
	}
	stream.end(l)
	m.Kill()
}

// TestMigration has virtual machines move live between two hosts, again and again, while guests of all
// hosts have them answer 1,000 packets a second each, and a connection of TCP goes on.
func TestMigration(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.define("10.50.1.0", "10.50.1.255", 16)
		var local [3]*guest
		for i := range local {
			name := string(rune('a' + i))
			local[i] = l.guest(i, name, client.PortOptions{Name: name})
			local[i].lease()
		}
		var j journal
		for n := 0; len(j.pauses) < *moves; n++ {
			j.machine(l, n, min(often, *moves-len(j.pauses)), &local)
			if j.broken > 1+*moves/often {
				t.Fatalf("%d machines are broken", j.broken)
			}
		}
		slices.Sort(j.far)
		slices.Sort(j.near)
		t.Logf("%d moves, in half of which the machine stood still for less than %v; of 1,000 packets a second, beside that, another host's guest lost %d at the median and %d at most, one of the host that it left %d and %d",
			*moves, percentile(j.pauses, 50), j.far[len(j.far)/2], j.far[len(j.far)-1], j.near[len(j.near)/2], j.near[len(j.near)-1])
		t.Logf("its first frame came %v after it ran, and the others' kernels knew of it after %v, 99 of 100 after %v at most", percentile(j.first, 50), percentile(j.known, 50), percentile(j.known, 99))
		if j.far[len(j.far)/2] > spare || j.near[len(j.near)/2] > spare {
			t.Errorf("half of the moves cost more than %d packets", spare)
		}
		l.check()
	})
}
