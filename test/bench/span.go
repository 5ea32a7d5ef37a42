package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge/vxlan"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/overlay"
)

// The load: in each of some rounds a stream of each kind for so many seconds, by both ways in
// turn.
const (
	spanSeconds = 2
	spanRounds  = 5
)

// spanHost is a host with a guest on a bridge, which the wire to the other host is a port of, or
// the tunnel that goes by it.
type spanHost struct {
	*nstest.NS
	guest    *nstest.NS
	self     string // its address on the wire
	tunnel   *vxlan.Tunnels
	filtered *overlay.Table
}

// spanRates are what a guest gets through to one on another host.
type spanRates struct{ large, one, small float64 } // Mbit/s of TCP in large and in small pieces, packets of 64 bytes a second

// by are the rates beside others.
func (r spanRates) by(o spanRates) spanRates {
	return spanRates{r.large / o.large, r.one / o.one, r.small / o.small}
}

// spanMedian is the median of each.
func spanMedian(all []spanRates) spanRates {
	of := func(rate func(spanRates) float64) float64 {
		var rates []float64
		for _, r := range all {
			rates = append(rates, rate(r))
		}
		slices.Sort(rates)
		return rates[len(rates)/2]
	}
	return spanRates{
		of(func(r spanRates) float64 { return r.large }), of(func(r spanRates) float64 { return r.one }), of(func(r spanRates) float64 { return r.small }),
	}
}

// spanBench prints what a guest gets through to one on another host, by a bridge across the wire
// and by the tunnel of a network that spans hosts, with its rules.
func spanBench(b *bench) {
	hosts := spanHosts(b)
	var plain, tunnel, beside []spanRates
	for range spanRounds {
		for _, h := range hosts {
			h.IP("link set vx7 down")
			h.IP("link set wire master br0")
		}
		plain = append(plain, spanMeasure(b, hosts))
		for _, h := range hosts {
			h.IP("link set wire nomaster")
			h.IP("link set vx7 up")
		}
		tunnel = append(tunnel, spanMeasure(b, hosts))
		beside = append(beside, tunnel[len(tunnel)-1].by(plain[len(plain)-1]))
	}
	t := new(table)
	t.add("way", "TCP", "TCP, single packets", "UDP of 64 bytes")
	for _, row := range []struct {
		way string
		spanRates
	}{{"bridge across the wire", spanMedian(plain)}, {"tunnel", spanMedian(tunnel)}} {
		t.add(row.way, fmt.Sprintf("%.0f Mbit/s", row.large), fmt.Sprintf("%.0f Mbit/s", row.one), fmt.Sprintf("%.0f/s", row.small))
	}
	ratio := spanMedian(beside)
	t.add("tunnel beside bridge", fmt.Sprintf("%.2f", ratio.large), fmt.Sprintf("%.2f", ratio.one), fmt.Sprintf("%.2f", ratio.small))
	b.printf("%s", t)
}

// spanHosts makes two hosts, each with a guest.
func spanHosts(b *bench) (all []*spanHost) {
	for i := range 2 {
		all = append(all, &spanHost{NS: nstest.NewNS(b, fmt.Sprintf("host%d", i+1)), self: fmt.Sprintf("203.0.113.%d", i+1), tunnel: new(vxlan.Tunnels), filtered: overlay.New(nil)})
	}
	nstest.IP(b, "link add wire netns host1 type veth peer name wire netns host2")
	for i, h := range all {
		h.IP("link set wire up")
		h.IP("addr add " + h.self + "/24 dev wire")
		h.IP("link add br0 address 02:76:6e:00:00:07 type bridge mcast_snooping 0")
		h.IP("link set br0 up")
		h.guest = nstest.NewNS(b, fmt.Sprintf("guest%d", i+1))
		nstest.IP(b, fmt.Sprintf("link add port netns %s type veth peer name eth0 mtu 1450 netns %s", h.Name, h.guest.Name))
		h.IP("link set port mtu 1450 master br0 up")
		h.guest.IP("link set eth0 up")
		h.guest.IP(fmt.Sprintf("addr add 10.50.0.%d/24 dev eth0", i+2))
		h.span(b, all[1-i].self)
	}
	return all
}

// span makes the tunnel to a peer, and the rules.
func (h *spanHost) span(b *bench, peer string) {
	peers := []netip.Addr{netip.MustParseAddr(peer)}
	err := h.Do(func() error {
		_, _, err := h.tunnel.Ensure(context.WithoutCancel(b.Context()), vxlan.Config{
			Name: "vx7", VNI: 7, Local: netip.MustParseAddr(h.self), Port: 4789, Peers: peers, Learning: true, Alias: "bench",
		})
		return errors.Join(err, h.filtered.Set(slices.Values([]*firewall.Network{{Bridge: "br0", Span: &firewall.Span{
			Device: "vx7", MAC: net.HardwareAddr{2, 'v', 'n', 0, 0, 7}, Gateways: []netip.Addr{netip.MustParseAddr("10.50.0.1")}, Peers: peers, Port: 4789,
		}}})))
	})
	if err != nil {
		b.Fatalf("making a tunnel: %w", err)
	}
	h.IP("link set vx7 master br0")
}

// spanMeasure takes the figures of the way that there is.
func spanMeasure(b *bench, hosts []*spanHost) (r spanRates) {
	segments := func(onOff string) {
		for _, h := range hosts {
			h.guest.Exec("ethtool", "-K", "eth0", "tso", onOff, "gso", onOff, "gro", onOff)
		}
	}
	nstest.Eventually(b, time.Minute, "the guests reach each other", func() error {
		return hosts[0].guest.Command(b.Context(), "ping", "-c1", "-W1", "10.50.0.3").Run()
	})
	r.large = spanStream(b, hosts).bits / 1e6
	segments("off")
	r.one = spanStream(b, hosts).bits / 1e6
	r.small = spanStream(b, hosts, "-u", "-b", "0", "-l", "64").packets / spanSeconds
	segments("on")
	return r
}

// arrived is what came of a stream: bits a second, and packets.
type arrived struct{ bits, packets float64 }

// spanStream measures a stream from one guest to the other.
func spanStream(b *bench, hosts []*spanHost, more ...string) arrived {
	serve := hosts[1].guest.Command(b.Context(), "iperf3", "-s", "-1")
	if err := serve.Start(); err != nil {
		b.Fatalf("starting a server: %w", err)
	}
	defer func() { _ = serve.Wait() }()
	nstest.Eventually(b, time.Minute, "a server", func() error {
		return hosts[1].guest.Command(b.Context(), "sh", "-c", "ss -ltn | grep -q :5201").Run()
	})
	var report struct {
		End struct {
			TCP struct {
				Bits float64 `json:"bits_per_second"`
			} `json:"sum_received"`
			UDP struct {
				Packets float64 `json:"packets"`
				Lost    float64 `json:"lost_packets"`
			} `json:"sum"`
		} `json:"end"`
	}
	out := hosts[0].guest.Exec("iperf3", append([]string{"-c", "10.50.0.3", "-J", "-t", strconv.Itoa(spanSeconds)}, more...)...)
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.End.TCP.Bits+report.End.UDP.Packets == 0 {
		b.Fatalf("iperf3 says %s", out)
	}
	return arrived{report.End.TCP.Bits, report.End.UDP.Packets - report.End.UDP.Lost}
}
