package firewall_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// The port on which guests and the LAN host answer what they are sent.
const echoPort = 4000

// guestOn plugs a guest into a new bridge: the host is .1, the guest .2.
func (h *host) guestOn(bridge, name, net24 string) *nstest.NS {
	h.Helper()
	nstest.IP(h, "link add "+bridge+" type bridge")
	nstest.IP(h, "addr add "+net24+"1/24 dev "+bridge)
	nstest.IP(h, "link set "+bridge+" up")
	g := nstest.Guest(h, bridge, name, "")
	g.IP("addr add " + net24 + "2/24 dev eth0")
	g.IP("route add default via " + net24 + "1")
	return g
}

// echo is a server that answers every datagram and counts by sender.
type echo struct {
	mu   sync.Mutex
	from map[netip.Addr]int
}

// newEcho starts a server in ns that ends with the test.
func newEcho(h *host, ns *nstest.NS) *echo {
	h.Helper()
	return newEchoOn(h, ns, echoPort)
}

func (e *echo) serve(conn net.PacketConn) {
	b := make([]byte, 64)
	for {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return
		}
		e.mu.Lock()
		e.from[from.(*net.UDPAddr).AddrPort().Addr()]++
		e.mu.Unlock()
		_, _ = conn.WriteTo(b[:n], from)
	}
}

// count is the number of datagrams from an address.
func (e *echo) count(from string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.from[netip.MustParseAddr(from)]
}

// The fates of a datagram.
const (
	answered = "answered"
	rejected = "rejected"
	lost     = "lost"
)

// probe sends a datagram from a new socket in ns and tells its fate.
func probe(ns *nstest.NS, to string, patience time.Duration) (fate string, err error) {
	var conn net.Conn
	err = ns.Do(func() (err error) {
		at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), echoPort))
		conn, err = net.DialUDP("udp4", nil, at)
		return err
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	_, err = conn.Write([]byte("?"))
	if err == nil {
		_, err = conn.Read(make([]byte, 64))
	}
	switch {
	case err == nil:
		return answered, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return rejected, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return lost, nil
	}
	return "", err
}

// What an isolated network sends does not reach a routed one, unless libvirt's
// rules are asked for; who may talk to whom is else the same.
func TestRoutedNetworkIsGuarded(t *testing.T) {
	byEachWriter(t, func(h *host) {
		lan := nstest.NewLAN(h)
		lan.IP("route add 198.51.100.0/24 via " + nstest.Uplink)
		routed := h.guestOn("virbr2", "routed", "198.51.100.")
		isolated, nat := h.guestOn("virbr1", "isolated", "192.0.2."), h.guestOn("virbr0", "nat", "192.168.122.")
		h.routing()
		server := newEcho(h, routed)
		networks := []firewall.Network{
			{Bridge: "virbr1", Mode: firewall.ModeIsolated, Subnets: subnets("192.0.2.1/24")},
			{Bridge: "virbr2", Mode: firewall.ModeRoute, Subnets: subnets("198.51.100.1/24")},
			natNetwork(),
		}
		for _, exact := range []bool{true, false} {
			f := h.firewall(exact)
			h.set(f, networks...)
			before := server.count("192.0.2.2")
			fates := map[string]string{}
			for name, from := range map[string]*nstest.NS{"isolated": isolated, "nat": nat, "lan": lan} {
				fate, err := probe(from, "198.51.100.2", time.Second)
				if err != nil {
					h.Fatalf("probe from %s: %v", name, err)
				}
				fates[name] = fate
			}
			want := map[string]string{"isolated": rejected, "nat": answered, "lan": answered}
			if exact {
				want["isolated"] = lost // it arrives, and the answer is rejected
			}
			if diff := cmp.Diff(want, fates); diff != "" {
				h.Errorf("datagrams to the routed network, exact rules %v (-want +got):\n%s", exact, diff)
			}
			if leaked := server.count("192.0.2.2") > before; leaked != exact {
				h.Errorf("datagram of the isolated guest arrived: %v, exact rules: %v", leaked, exact)
			}
		}
	})
}

// While networks are set anew and others come and go, no datagram that may pass
// is rejected and none that may not pass arrives.
func TestSetLeavesNoWindow(t *testing.T) {
	byEachWriter(t, func(h *host) {
		lan := nstest.NewLAN(h)
		server := newEcho(h, lan)
		lan.IP("route add 192.0.2.0/24 via " + nstest.Uplink)
		nat, isolated := h.guestOn("virbr0", "nat", "192.168.122."), h.guestOn("virbr1", "isolated", "192.0.2.")
		h.routing()
		f := h.firewall(false)
		closed := firewall.Network{Bridge: "virbr1", Mode: firewall.ModeIsolated, Subnets: subnets("192.0.2.1/24")}
		h.set(f, natNetwork(), closed)

		ctx, cancel := context.WithCancel(h.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		sent := make(chan struct{}, 1)
		for from, want := range map[*nstest.NS]string{nat: answered, isolated: rejected} {
			running.Go(func() {
				for ctx.Err() == nil {
					fate, err := probe(from, nstest.LANHost, mendLimit)
					if err != nil || fate != want {
						h.Errorf("a datagram of guest %s was %s, %v", from.Name, fate, err)
						return
					}
					select {
					case sent <- struct{}{}:
					case <-ctx.Done():
					}
				}
			})
		}
		for i := range 10 {
			tftp := func(n *firewall.Network) { n.TFTP = i%2 == 0 }
			h.set(f, with(natNetwork(), tftp), with(closed, tftp), intents()["nat-dev"])
			h.delete(f, intents()["nat-dev"])
			for range 20 {
				<-sent
			}
		}
		if n := server.count("192.0.2.2"); n > 0 {
			h.Errorf("%d datagrams of the isolated guest arrived", n)
		}
		if server.count(nstest.Uplink) == 0 {
			h.Error("no datagram of the other guest arrived")
		}
	})
}

// stream is a guest's download, under way.
type stream struct {
	*host
	received atomic.Int64
	ended    chan error
}

// download begins a download from the LAN host's web server that lasts longer
// than any test.
func (h *host) download(guest *nstest.NS) *stream {
	h.Helper()
	dial := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = guest.Do(func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(h.Context()))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+nstest.LANHost+"/download?bytes=1000000000&rate=1000000", nil)
	if err != nil {
		h.Fatal(err)
	}
	s := &stream{host: h, ended: make(chan error, 1)}
	go func() { s.ended <- s.read(&client, request) }()
	h.Cleanup(func() {
		cancel()
		if err := <-s.ended; !errors.Is(err, context.Canceled) {
			h.Errorf("the download ended with %v", err)
		}
	})
	return s
}

// read counts what comes until it ends.
func (s *stream) read(client *http.Client, request *http.Request) error {
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	b := make([]byte, 1<<14)
	for {
		n, err := response.Body.Read(b)
		s.received.Add(int64(n))
		if err != nil {
			return err
		}
	}
}

// goesOn waits for more of the download.
func (s *stream) goesOn(when string) {
	s.Helper()
	want := s.received.Load() + 200_000
	nstest.Eventually(s, mendLimit, "the download "+when, func() error {
		if got := s.received.Load(); got < want {
			return fmt.Errorf("%d bytes came, want %d", got, want)
		}
		return nil
	})
}

// damage is something that is done to rules.
type damage struct {
	what string
	do   func(h *host)
	// repaired: one repair puts everything back as it was.
	repaired firewall.Cause
}

// damages are what is done to the rules of each writer; on hosts with iptables after
// Docker has set the policy of FORWARD to DROP.
func damages(writer string) []damage {
	if writer == byNFTables {
		nft := func(commands ...string) func(h *host) { return func(h *host) { h.nft(commands...) } }
		return []damage{
			{"the rules' deletion", nft("flush chain ip vnetd forward", "flush chain ip vnetd inbound_virbr0"), firewall.CauseRulesDeleted},
			{"the elements' deletion", nft("flush set ip vnetd bridges", "flush map ip vnetd outbound", "flush map ip vnetd translation_24"), firewall.CauseRulesDeleted},
			{"the deletion of what refuses", nft("flush chain ip vnetd leaving_virbr0", "flush map ip vnetd asking"), firewall.CauseRulesDeleted},
			{"a peer's deletion", nft("flush set ip vnetd peered", "flush chain ip vnetd answered"), firewall.CauseRulesDeleted},
			{"another element", nft("add element ip vnetd outbound { \"virbr7\" : accept }"), firewall.CauseReordered},
			{"another rule", nft("insert rule ip vnetd forward drop"), firewall.CauseReordered},
			{"a chain's deletion", nft("delete chain ip vnetd postrouting"), firewall.CauseChainDeleted},
			{"another policy", nft("chain ip vnetd forward { policy drop; }"), firewall.CauseReordered},
			{"a table put to sleep", nft("table ip vnetd { flags dormant; }"), firewall.CauseReordered},
			{"a flush of one table", nft("flush table ip vnetd"), firewall.CauseTableFlush},
			{"the tables' deletion", nft("delete table ip vnetd"), firewall.CauseFlush},
			{"a flush of the rule set", nft("flush ruleset"), firewall.CauseFlush},
		}
	}
	batch := func(table string, commands ...string) func(h *host) {
		return func(h *host) { h.batch(table, commands...) }
	}
	all := []damage{
		{"the jumps' deletion", batch("filter", "-D FORWARD -j LIBVIRT_FWX", "-D FORWARD -j LIBVIRT_FWI", "-D FORWARD -j LIBVIRT_FWO"), firewall.CauseJumpDeleted},
		{"the deletion of jumps to what refuses", batch("filter", "-D FORWARD -j VNETD_EGRESS", "-D INPUT -j VNETD_HOST"), firewall.CauseJumpDeleted},
		{"the deletion of what refuses", batch("filter", "-F VNETD_EGRESS", "-F VNETD_ADMIT"), firewall.CauseRulesDeleted},
		{"the deletion of what keeps sources", batch("nat", "-F VNETD_PEERS"), firewall.CauseRulesDeleted},
		{"the rules' deletion", batch("filter", "-F LIBVIRT_FWI", "-F LIBVIRT_FWO"), firewall.CauseRulesDeleted},
		{"the chains' deletion", batch("filter", "-F LIBVIRT_INP", "-D INPUT -j LIBVIRT_INP", "-X LIBVIRT_INP"), firewall.CauseChainDeleted},
		{"a flush of nat's chains", batch("nat", "-F LIBVIRT_PRT"), firewall.CauseRulesDeleted},
		// Nobody but the keeper has the kernel track connections then.
		{"a flush of both tables", func(h *host) { h.batch("filter", "-F"); h.batch("nat", "-F") }, ""},
	}
	if writer == byIPTables {
		all = append(all, damage{"a flush of the rule set", func(h *host) { h.nft("flush ruleset") }, ""})
	}
	return all
}

// listed are all rules of the host's writer, sorted.
func (h *host) listed() string {
	h.Helper()
	text := ""
	if h.writer == byNFTables {
		text = strings.ReplaceAll(nstest.Exec(h, "nft", "-s", "list", "ruleset"), "\t\telements = {", "\t\telements = {\n")
	} else {
		text = nstest.Exec(h, h.program()+"-save") + nstest.Exec(h, strings.Replace(h.program(), "ip", "ip6", 1)+"-save")
	}
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.Trim(line, " \t\n,}")
		if line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// A guest's download goes on through everything that is done to the rules, on a
// host that forwards nothing without rules in iptables where they are there, and each
// time they are mended once.
func TestDownloadSurvivesRepairs(t *testing.T) {
	byEachWriter(t, func(h *host) {
		lan := nstest.NewLAN(h)
		nstest.NewWeb(h, lan)
		guest := h.guestOn("virbr0", "guest", "192.168.122.")
		h.routing()
		f := h.watched()
		h.set(f, with(natNetwork(), func(n *firewall.Network) {
			n.Peers = []firewall.Peer{{Bridge: "virbr-isolated", Name: "isolated", Subnets: intents()["isolated"].Subnets}}
			n.Policy = firewall.Policy{Egress: firewall.ActionReject, Rules: []firewall.PolicyRule{
				{Direction: firewall.Egress, Action: firewall.ActionAllow, Remote: subnets(nstest.LANHost + "/32"), Log: true, Label: "rule 1"},
			}}
		}), intents()["isolated"])
		if h.writer != byNFTables {
			h.batch("filter", "-P FORWARD DROP", "-A FORWARD -i docker0 -j ACCEPT")
		}
		download := h.download(guest)
		download.goesOn("before anything is done")
		want := h.listed()
		for _, d := range damages(h.writer) {
			before := f.Stats()
			d.do(h)
			nstest.Eventually(h, mendLimit, "repair after "+d.what, func() error {
				if f.Stats().Repairs == before.Repairs {
					return errors.New("there was none")
				}
				return nil
			})
			download.goesOn("after " + d.what)
			if d.repaired == "" {
				continue
			}
			if diff := cmp.Diff(want, h.listed()); diff != "" {
				h.Errorf("rules after %s (-want +got):\n%s", d.what, diff)
			}
			if after := f.Stats(); after.Repairs != before.Repairs+1 || after.ByCause[d.repaired] != before.ByCause[d.repaired]+1 {
				h.Errorf("%s was mended by %+v, want one repair more of %q than %+v", d.what, after, d.repaired, before)
			}
		}
	})
}

// A guest of one network forges an answer in a connection of another's, which arrives
// under libvirt's rules alone.
func TestConnectionsOfOthers(t *testing.T) {
	byEachWriter(t, func(h *host) {
		lan := nstest.NewLAN(h)
		newEcho(h, lan)
		victim, evil := h.guestOn("virbr0", "victim", "192.168.122."), h.guestOn("virbr1", "evil", "192.0.2.")
		h.routing()
		other := firewall.Network{Bridge: "virbr1", Mode: firewall.ModeNAT, Subnets: subnets("192.0.2.1/24")}
		for _, exact := range []bool{true, false} {
			f := h.firewall(exact)
			h.set(f, natNetwork(), other)
			var conn *net.UDPConn
			if err := victim.Do(func() (err error) {
				conn, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.ParseIP(nstest.LANHost), Port: echoPort})
				return err
			}); err != nil {
				h.Fatal(err)
			}
			answer := make([]byte, 64)
			if _, err := conn.Write([]byte("?")); err != nil {
				h.Fatal(err)
			}
			if _, err := conn.Read(answer); err != nil {
				h.Fatal(err)
			}
			// Ports above 1023 are kept in translation.
			port := uint16(conn.LocalAddr().(*net.UDPAddr).Port)
			if err := evil.Do(func() error { return forge(nstest.LANHost, nstest.Uplink, echoPort, port) }); err != nil {
				h.Fatal(err)
			}
			patience := 300 * time.Millisecond
			if exact {
				patience = mendLimit // a busy machine takes longer
			}
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			n, err := conn.Read(answer)
			if arrived := err == nil && string(answer[:n]) == "forged"; arrived != exact {
				h.Errorf("a forged answer arrives: %v, exact rules: %v", arrived, exact)
			}
			_ = conn.Close()
			if fate, err := probe(victim, nstest.LANHost, mendLimit); fate != answered {
				h.Errorf("a true answer: %s, %v", fate, err)
			}
		}
	})
}

// forge sends a UDP datagram with the source address of somebody else.
func forge(from, to string, source, port uint16) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()
	src, dst := netip.MustParseAddr(from).As4(), netip.MustParseAddr(to).As4()
	packet := []byte{0x45, 0, 0, 34, 0, 0, 0, 0, 64, syscall.IPPROTO_UDP, 0, 0}
	packet = append(append(packet, src[:]...), dst[:]...)
	packet = binary.BigEndian.AppendUint16(packet, source)
	packet = append(binary.BigEndian.AppendUint16(packet, port), 0, 14, 0, 0)
	return syscall.Sendto(fd, append(packet, "forged"...), 0, &syscall.SockaddrInet4{Addr: dst})
}
