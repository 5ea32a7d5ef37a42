package main

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/ipv4"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/tap"
)

// How many guests come at once, when one of them asks again, as udhcpc does, and how
// long all of them may take.
const (
	stormGuests   = 200
	stormPatience = 3 * time.Second
	stormLimit    = 60 * time.Second
)

// dhcpStorm has guests come at once, as after a power failure.
func dhcpStorm(b *bench) {
	t := new(table)
	t.add("server", "guests", "bound", "all bound after", "NAKs", "asked again", "median", "p99", "CPU")
	for _, s := range []lessor{
		{"vnetd", 0, false, startVnetdLeases},
		{"Kea", 0, false, startKea},
		{"dnsmasq as libvirt runs it", 0, false, func(b *bench, dir string, _ bool, _ int) server { return startDnsmasq(b, dir, true, true) }},
		{"dnsmasq, no ping", 0, false, func(b *bench, dir string, _ bool, _ int) server { return startDnsmasq(b, dir, true, false) }},
	} {
		b.play(func(b *bench) { t.add(measureStorm(b, s)...) })
	}
	b.printf("%s", t)
}

// storm is guests that come at once.
type storm struct {
	begin  time.Time
	guests []*stormGuest

	mu    sync.Mutex
	naks  int
	again int
	bound []time.Duration // since the begin
}

// stormGuest is a guest: a TAP device, as a virtual machine has, whose end is in the
// hands of the bench.
type stormGuest struct {
	storm    *storm
	mac      [6]byte
	xid      dhcpv4.TransactionID
	port     *tap.Device
	question *dhcpv4.DHCPv4 // nil once it is bound
}

// measureStorm is a row of the table.
func measureStorm(b *bench, s lessor) []string {
	dir, err := os.MkdirTemp(b.dir, "state-")
	if err != nil {
		b.Fatalf("making a folder: %w", err)
	}
	srv := s.start(b, dir, false, 0)
	st := plugStorm(b)
	time.Sleep(time.Second) // what has begun to serve may not be done with that
	before := srv.usage(b)
	if err := st.run(b.Context()); err != nil {
		b.Fatalf("storm on %s: %w", s.name, err)
	}
	row := []string{s.name, strconv.Itoa(stormGuests), strconv.Itoa(len(st.bound)), "never", strconv.Itoa(st.naks), strconv.Itoa(st.again), "-", "-"}
	if len(st.bound) > 0 {
		row[6], row[7] = millis(quantile(st.bound, 0.5)), millis(quantile(st.bound, 0.99))
	}
	if len(st.bound) == stormGuests {
		row[3] = millis(quantile(st.bound, 1))
	}
	return append(row, seconds(srv.usage(b).cpu-before.cpu))
}

// plugStorm plugs the guests into the bridge, gone when b ends.
func plugStorm(b *bench) *storm {
	st := new(storm)
	for n := range stormGuests {
		g := &stormGuest{storm: st, mac: clientMAC(n)}
		binary.BigEndian.PutUint32(g.xid[:], uint32(n))
		var err error
		if g.port, err = tap.Create(tap.Config{}); err != nil {
			b.Fatalf("making a guest's device: %w", err)
		}
		b.Cleanup(func() { _ = g.port.Close() })
		nstest.IP(b, "link set "+g.port.Name+" master "+bridge+" up")
		st.guests = append(st.guests, g)
	}
	return st
}

// run sends all guests' DISCOVER at once and goes on until all are bound, or have
// tried for long.
func (s *storm) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stormLimit)
	defer cancel()
	all, ctx := errgroup.WithContext(ctx)
	s.begin = time.Now()
	for _, g := range s.guests {
		all.Go(func() error { return g.live(ctx) })
	}
	return all.Wait()
}

// live has the guest ask until all guests are bound, and until ctx ends.
func (g *stormGuest) live(ctx context.Context) error {
	if err := g.discover(); err != nil {
		return err
	}
	for frame := make([]byte, 2048); ctx.Err() == nil && !g.storm.over(); {
		n, err := g.port.Files[0].Read(frame)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && g.question == nil:
			err = g.wait()
		case errors.Is(err, os.ErrDeadlineExceeded):
			g.storm.count(&g.storm.again)
			err = g.ask()
		case err == nil:
			err = g.answer(frame[:n])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// over tells whether all guests are bound.
func (s *storm) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.bound) == len(s.guests)
}

func (s *storm) count(what *int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*what++
}

// discover begins.
func (g *stormGuest) discover() (err error) {
	if g.question, err = dhcpv4.NewDiscovery(g.mac[:], dhcpv4.WithTransactionID(g.xid)); err != nil {
		return err
	}
	return g.ask()
}

// ask broadcasts the guest's question, for whose answer it has patience.
func (g *stormGuest) ask() error {
	if _, err := g.port.Files[0].Write(guestFrame(g.mac, g.question.ToBytes())); err != nil {
		return err
	}
	return g.port.Files[0].SetReadDeadline(time.Now().Add(stormPatience))
}

// wait has a bound guest take what comes while the others are not.
func (g *stormGuest) wait() error {
	return g.port.Files[0].SetReadDeadline(time.Now().Add(20 * time.Millisecond))
}

// answer has the guest go on if the frame is for it.
func (g *stormGuest) answer(frame []byte) error {
	m, err := dhcpv4.FromBytes(frame[min(len(frame), guestFrameHead):])
	if err != nil || m.OpCode != dhcpv4.OpcodeBootReply || m.TransactionID != g.xid || g.question == nil {
		return nil
	}
	requesting := g.question.MessageType() == dhcpv4.MessageTypeRequest
	switch typ := m.MessageType(); {
	case typ == dhcpv4.MessageTypeOffer && !requesting:
		if g.question, err = dhcpv4.NewRequestFromOffer(m); err != nil {
			return err
		}
		return g.ask()
	case typ == dhcpv4.MessageTypeAck && requesting:
		g.question = nil
		g.storm.mu.Lock()
		g.storm.bound = append(g.storm.bound, time.Since(g.storm.begin))
		g.storm.mu.Unlock()
		return g.wait()
	case typ == dhcpv4.MessageTypeNak:
		g.storm.count(&g.storm.naks)
		return g.discover() // RFC 2131, section 3.1, step 5: it starts over
	}
	return nil
}

// guestFrameHead is the length of the Ethernet, IP and UDP headers.
const guestFrameHead = 14 + ipv4.HeaderLen + 8

// guestFrame is the broadcast of a guest without an address, without a UDP checksum.
func guestFrame(from [6]byte, payload []byte) []byte {
	frame := make([]byte, guestFrameHead, guestFrameHead+len(payload))
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	copy(frame[6:], from[:])
	frame[12] = 8 // IPv4
	ip, udp := frame[14:34], frame[34:]
	ip[0], ip[8], ip[9] = ipv4.Version<<4|ipv4.HeaderLen/4, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(frame)-14+len(payload)))
	copy(ip[16:], net.IPv4bcast.To4())
	binary.BigEndian.PutUint16(ip[10:], nstest.Checksum(ip))
	binary.BigEndian.PutUint16(udp, dhcpv4.ClientPort)
	binary.BigEndian.PutUint16(udp[2:], dhcpv4.ServerPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload)))
	return append(frame, payload...)
}
