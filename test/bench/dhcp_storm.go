package main

import (
	"encoding/binary"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"github.com/vnetd/vnetd/internal/nstest"
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

// storm is guests on one link, all of them seen through one socket.
type storm struct {
	conn   net.PacketConn
	guests []*stormGuest
	naks   int
	again  int
	bound  []time.Duration // since the begin
}

// stormGuest is a guest; question is nil once it is bound.
type stormGuest struct {
	question *dhcpv4.DHCPv4
	asked    time.Time
}

// measureStorm is a row of the table.
func measureStorm(b *bench, s lessor) []string {
	dir, err := os.MkdirTemp(b.dir, "state-")
	if err != nil {
		b.Fatalf("making a folder: %w", err)
	}
	srv := s.start(b, dir, false, 0)
	guest := nstest.Guest(b, bridge, "guest", "")
	var st storm
	err = guest.Do(func() (err error) {
		st.conn, err = nclient4.NewRawUDPConn(guestLink, dhcpv4.ClientPort)
		return err
	})
	if err != nil {
		b.Fatalf("opening the guests' socket: %w", err)
	}
	b.Cleanup(func() { _ = st.conn.Close() })
	guest.IP("addr add " + guestAddr + prefix + " dev " + guestLink)
	nstest.Eventually(b, startLimit, "the guests reach the server", func() error {
		return guest.Command(b.Context(), "ping", "-c1", "-W1", serverAddr).Run()
	})
	time.Sleep(time.Second) // what has begun to serve may not be done with that
	before := srv.usage(b)
	if err := st.run(); err != nil {
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

// run sends all guests' DISCOVER at once and goes on until all are bound.
func (s *storm) run() error {
	begin := time.Now()
	for n := range stormGuests {
		mac := clientMAC(n)
		m, err := dhcpv4.NewDiscovery(mac[:])
		if err != nil {
			return err
		}
		binary.BigEndian.PutUint32(m.TransactionID[:], uint32(n))
		s.guests = append(s.guests, &stormGuest{question: m})
	}
	// The guests share a socket, whose buffer would not hold answers to all of them.
	answers := make(chan *dhcpv4.DHCPv4, 16*stormGuests)
	reading := make(chan struct{})
	go func() { defer close(reading); s.read(answers) }()
	defer func() { _ = s.conn.Close(); <-reading }()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for err := s.ask(); len(s.bound) < stormGuests && time.Since(begin) < stormLimit; {
		if err != nil {
			return err
		}
		select {
		case <-again.C:
			err = s.ask()
		case m := <-answers:
			err = s.answer(m, begin)
		}
	}
	return nil
}

// read takes the servers' answers until the socket is closed.
func (s *storm) read(answers chan<- *dhcpv4.DHCPv4) {
	for buf := make([]byte, 4096); ; {
		n, _, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if m, err := dhcpv4.FromBytes(buf[:n]); err == nil && m.OpCode == dhcpv4.OpcodeBootReply {
			answers <- m
		}
	}
}

// ask sends the questions of those who have not asked, or not been answered.
func (s *storm) ask() error {
	for _, g := range s.guests {
		if g.question == nil || time.Since(g.asked) < stormPatience {
			continue
		}
		if !g.asked.IsZero() {
			s.again++
		}
		if err := s.send(g); err != nil {
			return err
		}
	}
	return nil
}

func (s *storm) send(g *stormGuest) error {
	g.asked = time.Now()
	_, err := s.conn.WriteTo(g.question.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ServerPort})
	return err
}

// answer has the guest of m go on.
func (s *storm) answer(m *dhcpv4.DHCPv4, begin time.Time) error {
	number := binary.BigEndian.Uint32(m.TransactionID[:])
	if number >= stormGuests || s.guests[number].question == nil {
		return nil
	}
	g := s.guests[number]
	requesting := g.question.MessageType() == dhcpv4.MessageTypeRequest
	switch typ := m.MessageType(); {
	case typ == dhcpv4.MessageTypeOffer && !requesting:
		request, err := dhcpv4.NewRequestFromOffer(m)
		if err != nil {
			return err
		}
		g.question = request
		return s.send(g)
	case typ == dhcpv4.MessageTypeAck && requesting:
		g.question = nil
		s.bound = append(s.bound, time.Since(begin))
	case typ == dhcpv4.MessageTypeNak:
		// RFC 2131, section 3.1, step 5: it starts over.
		s.naks++
		mac := clientMAC(int(number))
		discover, err := dhcpv4.NewDiscovery(mac[:])
		if err != nil {
			return err
		}
		discover.TransactionID = m.TransactionID
		g.question = discover
		return s.send(g)
	}
	return nil
}
