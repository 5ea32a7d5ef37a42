package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// answerLimit is how long a client waits for an answer. Longer than dnsmasq
// checks an address.
const answerLimit = 10 * time.Second

// firstLease takes the time of new clients, one after the other.
func firstLease(b *bench) {
	t := new(table)
	t.add("server", "clients", "median", "p99", "worst", "CPU", "PSS")
	for _, c := range []struct {
		subject
		clients int
	}{
		{vnetd(), 200},
		// It checks the addresses of the first six for 3 seconds each.
		{dnsmasq(true, true), 6},
		{dnsmasq(true, false), 200},
		{dnsmasq(false, false), 200},
	} {
		b.play(func(b *bench) { t.add(measureFirstLeases(b, c.subject, c.clients)...) })
	}
	b.printf("%s", t)
}

// measureFirstLeases returns a row of the table.
func measureFirstLeases(b *bench, s subject, clients int) []string {
	srv, guest := b.begin(s)
	var conn net.PacketConn
	err := guest.Do(func() (err error) {
		conn, err = nclient4.NewRawUDPConn(guestLink, dhcpv4.ClientPort)
		return err
	})
	if err != nil {
		b.Fatalf("opening the guest's socket: %w", err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	before := srv.usage(b)
	var times []time.Duration
	for n := range clients {
		mac := clientMAC(n)
		took, err := exchange(b.Context(), conn, mac[:])
		if err != nil {
			b.Fatalf("leasing from %s: %w", s.name, err)
		}
		times = append(times, took)
	}
	after := srv.usage(b)
	p99 := "-"
	if clients >= 100 {
		p99 = millis(quantile(times, 0.99))
	}
	return []string{
		s.name, strconv.Itoa(clients), millis(quantile(times, 0.5)), p99, millis(quantile(times, 1)),
		seconds(after.cpu - before.cpu), after.memory(),
	}
}

// exchange gets a lease for a new client and returns the time from sending
// DISCOVER to receiving ACK. No message is sent twice.
func exchange(ctx context.Context, conn net.PacketConn, mac net.HardwareAddr) (time.Duration, error) {
	discover, err := dhcpv4.NewDiscovery(mac)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	offer, err := ask(ctx, conn, discover, dhcpv4.MessageTypeOffer)
	if err != nil {
		return 0, err
	}
	request, err := dhcpv4.NewRequestFromOffer(offer)
	if err != nil {
		return 0, err
	}
	if _, err := ask(ctx, conn, request, dhcpv4.MessageTypeAck); err != nil {
		return 0, err
	}
	return time.Since(begin), nil
}

// ask sends a message to all and waits for its answer, of which the type must be
// as wanted.
func ask(ctx context.Context, conn net.PacketConn, m *dhcpv4.DHCPv4, want dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	if err := errors.Join(ctx.Err(), conn.SetReadDeadline(time.Now().Add(answerLimit))); err != nil {
		return nil, err
	}
	if _, err := conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ServerPort}); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return nil, fmt.Errorf("waiting for %v: %w", want, err)
		}
		answer, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || answer.TransactionID != m.TransactionID || answer.OpCode != dhcpv4.OpcodeBootReply {
			continue
		}
		if got := answer.MessageType(); got != want {
			return nil, fmt.Errorf("the answer is %v, want %v", got, want)
		}
		return answer, nil
	}
}
