package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/internal/sysbus"
)

// forwarded are two networks, of which web has ports of the host lead to its guest web1.
const forwarded = `<network xmlns:vnetd='urn:vnetd:network:1'><name>web</name><forward mode='nat'><nat ipv6='yes'/></forward><bridge name='virbr7'/>
<domain name='vm.example'/>
<ip address='192.0.2.1' prefix='24'><dhcp><range start='192.0.2.10' end='192.0.2.99'/></dhcp></ip>
<ip family='ipv6' address='2001:db8:7::1' prefix='64'><dhcp><range start='2001:db8:7::100' end='2001:db8:7::199'/><host name='web1' ip='2001:db8:7::5'/></dhcp></ip>
<vnetd:forward proto='tcp' port='8080' to='web1' to-port='80'/>
<vnetd:forward proto='udp' port='8080' to='web1' to-port='80'/>
<vnetd:forward proto='tcp' port='9000-9003' to='web1' to-port='90'/>
<vnetd:forward proto='udp' port='9000-9003' to='web1' to-port='90'/>
</network>`

// beside is the other.
const beside = `<network><name>beside</name><forward mode='nat'><nat ipv6='yes'/></forward><bridge name='virbr8'/>
<ip address='198.51.100.1' prefix='24'/><ip family='ipv6' address='2001:db8:8::1' prefix='64'/></network>`

// forwarding is the lab of forwards.
type forwarding struct {
	*testing.T
	*nstest.Lab
	vnetd              *nstest.Vnetd
	web1, web2, beside *nstest.NS
}

// newForwarding starts the networks and their guests; web1 answers what it is sent.
func newForwarding(t *testing.T) *forwarding { return forwardingBy(t, "iptables") }

// forwardingBy is newForwarding by a backend of the firewall.
func forwardingBy(t *testing.T, backend string) *forwarding {
	f := &forwarding{T: t, Lab: nstest.NewLab(t)}
	if err := f.SetFirewall(backend); err != nil {
		t.Fatal(err)
	}
	f.vnetd = f.StartVnetd()
	f.define("web", forwarded)
	f.define("beside", beside)
	vnetctl(t, f.Lab, "start", "web")
	vnetctl(t, f.Lab, "start", "beside")
	f.web1, f.web2, f.beside = nstest.Guest(t, "virbr7", "web1", ""), nstest.Guest(t, "virbr7", "web2", ""), nstest.Guest(t, "virbr8", "beside", "")
	leaseOf(t, f.web1, "web1")
	f.web1.IP("addr add 2001:db8:7::5/64 dev eth0 nodad")
	for _, guest := range []struct {
		*nstest.NS
		addr, addr6, gateway, gateway6 string
	}{
		{f.web1, "", "", "192.0.2.1", "2001:db8:7::1"},
		{f.web2, "192.0.2.200/24", "2001:db8:7::6/64", "192.0.2.1", "2001:db8:7::1"},
		{f.beside, "198.51.100.2/24", "2001:db8:8::2/64", "198.51.100.1", "2001:db8:8::1"},
	} {
		if guest.addr != "" {
			guest.IP("addr add " + guest.addr + " dev eth0")
			guest.IP("addr add " + guest.addr6 + " dev eth0 nodad")
		}
		guest.IP("route add default via " + guest.gateway)
		guest.IP("-6 route add default via " + guest.gateway6 + " metric 7") // beside one that is advertised
	}
	f.answer(f.web1)
	return f
}

// define defines a network of that document.
func (f *forwarding) define(name, document string) {
	f.Helper()
	path := filepath.Join(f.TempDir(), name+".xml")
	if err := os.WriteFile(path, []byte(document), 0o644); err != nil {
		f.Fatal(err)
	}
	vnetctl(f.T, f.Lab, "define", path)
}

// answer has a guest answer at the ports to which forwards lead with its name, its port and
// who asks.
func (f *forwarding) answer(ns *nstest.NS) { f.answerAt(ns, 80, 90, 91, 92, 93) }

// answerAt has a guest do so at some ports.
func (f *forwarding) answerAt(ns *nstest.NS, ports ...int) {
	f.Helper()
	var running sync.WaitGroup
	f.T.Cleanup(running.Wait)
	for _, port := range ports {
		err := ns.Do(func() error {
			stream, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
			if err != nil {
				return err
			}
			packets, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
			if err != nil {
				return err
			}
			f.T.Cleanup(func() { _, _ = stream.Close(), packets.Close() })
			answer := func(to net.Addr) []byte {
				at, _ := netip.ParseAddrPort(to.String())
				return fmt.Appendf(nil, "%s %d %s\n", ns.Name, port, at.Addr().Unmap())
			}
			running.Go(func() {
				for {
					conn, err := stream.Accept()
					if err != nil {
						return
					}
					running.Go(func() {
						defer context.AfterFunc(f.T.Context(), func() { _ = conn.Close() })()
						answerEach(conn, answer(conn.RemoteAddr()))
					})
				}
			})
			running.Go(func() {
				for b := make([]byte, 64); ; {
					_, from, err := packets.ReadFrom(b)
					if err != nil {
						return
					}
					_, _ = packets.WriteTo(answer(from), from)
				}
			})
			return nil
		})
		if err != nil {
			f.Fatal(err)
		}
	}
}

// answerEach answers every byte of a connection with text.
func answerEach(conn net.Conn, text []byte) {
	defer func() { _ = conn.Close() }()
	for b := make([]byte, 1); ; {
		if _, err := conn.Read(b); err != nil {
			return
		}
		if _, err := conn.Write(text); err != nil {
			return
		}
	}
}

// connect connects from a namespace, nil for the host's.
func connect(from *nstest.NS, protocol, to string) (conn net.Conn, err error) {
	dial := func() (err error) {
		conn, err = net.DialTimeout(protocol, to, patience)
		return err
	}
	if from == nil {
		return conn, dial()
	}
	return conn, from.Do(dial)
}

// patience is how long an answer is waited for.
const patience = 2 * time.Second

// ask says what a connection is answered.
func ask(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("?")); err != nil {
		return "", err
	}
	b := make([]byte, 100)
	n, err := conn.Read(b)
	return strings.TrimSpace(string(b[:n])), err
}

// asked is what one that asks once is answered, or the error.
func asked(from *nstest.NS, protocol, to string) string {
	conn, err := connect(from, protocol, to)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = conn.Close() }()
	text, err := ask(conn)
	if err != nil {
		return err.Error()
	}
	return text
}

// bridged has packets within bridges pass the rules of IP, or not (br_netfilter).
func (f *forwarding) bridged(on string) {
	f.Helper()
	for _, name := range []string{"iptables", "ip6tables"} {
		if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte(on), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			f.Fatal(err)
		}
	}
}

// awaits asks until the answer is as wanted.
func (f *forwarding) awaits(what string, from *nstest.NS, protocol, to, want string) {
	f.Helper()
	nstest.Eventually(f.T, limit, what, func() error {
		if got := asked(from, protocol, to); !strings.HasSuffix(got, want) {
			return fmt.Errorf("%s %s says %q, want %q", protocol, to, got, want)
		}
		return nil
	})
}

// byEachBackend runs body with rules by each backend of the firewall.
func byEachBackend(t *testing.T, body func(t *testing.T, f *forwarding)) {
	nstest.Beside(t)
	for _, backend := range []string{"iptables", "nftables"} {
		t.Run(backend, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) { body(t, forwardingBy(t, backend)) })
		})
	}
}

// TestForwardsFromEverywhere asks for each kind of forward from each direction.
func TestForwardsFromEverywhere(t *testing.T) {
	byEachBackend(t, func(t *testing.T, f *forwarding) {
		const gateway, gateway6 = "192.0.2.1", "2001:db8:7::1"
		f.bridged("0")
		f.awaits("::1 is led once that works", nil, "tcp", "[::1]:8080", gateway6)
		f.awaits("the LAN finds the host", f.LAN, "tcp", "["+nstest.Uplink6+"]:8080", nstest.LANHost6)
		for _, direction := range []struct {
			name string
			from *nstest.NS
			to   string // the host
			seen string // who asks, as the guest has it
		}{
			{"outside", f.LAN, nstest.Uplink, nstest.LANHost},
			{"outside", f.LAN, nstest.Uplink6, nstest.LANHost6},
			{"host", nil, nstest.Uplink, nstest.Uplink},
			{"host", nil, nstest.Uplink6, nstest.Uplink6},
			{"host by its gateway", nil, gateway, gateway},
			{"host by its gateway", nil, gateway6, gateway6},
			{"loopback", nil, "127.0.0.1", gateway},
			{"loopback", nil, "::1", gateway6},
			{"itself", f.web1, nstest.Uplink, gateway},
			{"itself", f.web1, nstest.Uplink6, gateway6},
			{"itself by its gateway", f.web1, gateway, gateway},
			{"itself by its gateway", f.web1, gateway6, gateway6},
			{"sibling", f.web2, nstest.Uplink, gateway},
			{"sibling", f.web2, nstest.Uplink6, gateway6},
			{"other network", f.beside, nstest.Uplink, gateway},
			{"other network", f.beside, nstest.Uplink6, gateway6},
			{"other network by its gateway", f.beside, "198.51.100.1", gateway},
			{"other network by its gateway", f.beside, "2001:db8:8::1", gateway6},
		} {
			for _, protocol := range []string{"tcp", "udp"} {
				for port, lands := range map[string]string{"8080": "80", "9000": "90", "9003": "93"} {
					to := net.JoinHostPort(direction.to, port)
					if got, want := asked(direction.from, protocol, to), "web1 "+lands+" "+direction.seen; got != want {
						t.Errorf("%s asks %s %s: %q, want %q", direction.name, protocol, to, got, want)
					}
				}
			}
		}
	})
}

// TestForwardsOfTwoNetworks has the host ask guests of two networks from its loopback addresses.
func TestForwardsOfTwoNetworks(t *testing.T) {
	byEachBackend(t, func(t *testing.T, f *forwarding) {
		f.bridged("0")
		f.answerAt(f.beside, 80)
		const leads = "<vnetd:forward port='8081' proto='tcp' to='198.51.100.2' to-port='80'/><vnetd:forward port='8082' proto='tcp' to='2001:db8:8::2' to-port='80'/></network>"
		f.define("beside", strings.Replace(strings.Replace(beside, "</network>", leads, 1), "<network>", "<network xmlns:vnetd='urn:vnetd:network:1'>", 1))
		for to, want := range map[string]string{
			"127.0.0.1:8080": "web1 80 192.0.2.1", "[::1]:8080": "web1 80 2001:db8:7::1",
			"127.0.0.1:8081": "beside 80 198.51.100.1", "[::1]:8082": "beside 80 2001:db8:8::1",
		} {
			f.awaits("the host is led to either network", nil, "tcp", to, want)
		}
	})
}

// TestForwardsWhereBridgesAreFiltered has packets within bridges pass the rules of IP, as
// Docker does: all but ::1, which is refused at once, and a guest that asks for itself.
func TestForwardsWhereBridgesAreFiltered(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		f := newForwarding(t)
		f.bridged("1")
		for _, to := range []string{nstest.Uplink, nstest.Uplink6, "127.0.0.1"} {
			f.awaits("the host is led", nil, "tcp", net.JoinHostPort(to, "8080"), "")
			for name, from := range map[string]*nstest.NS{"sibling": f.web2, "outside": f.LAN, "other network": f.beside} {
				if to != "127.0.0.1" {
					f.awaits(name+" is led", from, "udp", net.JoinHostPort(to, "9001"), "")
				}
			}
		}
		f.awaits("::1 is refused", nil, "tcp", "[::1]:8080", "connection refused")
	})
}

// TestForwardsKeepGuestsFromLoopback has guests send to the host's loopback addresses, from
// which it may answer for the sake of forwards.
func TestForwardsKeepGuestsFromLoopback(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		f := newForwarding(t)
		secret, err := net.ListenPacket("udp4", "127.0.0.1:7777")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = secret.Close() })
		f.awaits("127.0.0.1 is led", nil, "tcp", "127.0.0.1:8080", "192.0.2.1")
		f.awaits("the guest finds its gateway", f.web2, "tcp", "192.0.2.1:1", "connection refused")
		f.web2.Exec("sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1")
		f.web2.IP("route del table local local 127.0.0.0/8 dev lo")
		f.web2.IP("route del table local local 127.0.0.1 dev lo")
		f.web2.IP("route add 127.0.0.0/8 via 192.0.2.1")
		arrives := func() bool {
			_ = asked(f.web2, "udp4", "127.0.0.1:7777")
			if err := secret.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			_, _, err := secret.ReadFrom(make([]byte, 10))
			return err == nil
		}
		if arrives() {
			t.Error("a guest reaches what listens at the host's 127.0.0.1")
		}
		nstest.Exec(t, "iptables", "-I", "INPUT", "-i", "virbr7", "-d", "127.0.0.0/8", "-j", "ACCEPT")
		if arrives() {
			t.Error("a guest reaches it where somebody accepts that")
		}
	})
}

// TestForwardsObeyOtherNetworks has a guest of an isolated network ask for a forward.
func TestForwardsObeyOtherNetworks(t *testing.T) {
	byEachBackend(t, func(t *testing.T, f *forwarding) {
		f.define("closed", "<network><name>closed</name><bridge name='virbr9'/><ip address='10.9.0.1' prefix='24'/></network>")
		vnetctl(t, f.Lab, "start", "closed")
		guest := nstest.Guest(t, "virbr9", "closed", "")
		guest.IP("addr add 10.9.0.2/24 dev eth0")
		guest.IP("route add default via 10.9.0.1")
		f.awaits("others are led", f.beside, "tcp", nstest.Uplink+":8080", "192.0.2.1")
		f.awaits("the guest finds its gateway", guest, "tcp", "10.9.0.1:1", "connection refused")
		for _, to := range []string{"10.9.0.1:8080", nstest.Uplink + ":8080"} {
			if got := asked(guest, "tcp", to); !strings.Contains(got, "refused") {
				t.Errorf("a guest of an isolated network is led: %s", got)
			}
		}
	})
}

// steady is a connection that is asked again and again.
func (f *forwarding) steady(what string, conn net.Conn) {
	f.Helper()
	if _, err := ask(conn); err != nil {
		f.Errorf("%s: a connection under way ends: %v", what, err)
	}
}

// leadLimit is how long a forward may take to lead after what others did: a second, but on a
// machine that has much else to do.
const leadLimit = 10 * time.Second

// leadsSoon holds that a forward leads again in time, to who asks anew.
func (f *forwarding) leadsSoon(what string, from *nstest.NS, to, want string) {
	f.Helper()
	begin := time.Now()
	for {
		conn, err := connectWithin(from, to, 200*time.Millisecond)
		if err == nil {
			var text string
			if text, err = ask(conn); err == nil && !strings.HasSuffix(text, want) {
				err = fmt.Errorf("it says %q, want %q", text, want)
			}
			_ = conn.Close()
		}
		switch took := time.Since(begin); {
		case err == nil && took <= leadLimit:
			f.Logf("%s: the forward leads after %v", what, took.Round(time.Millisecond))
			return
		case took > leadLimit:
			f.Errorf("%s: the forward does not lead within %v: %v", what, leadLimit, err)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// connectWithin is connect by TCP with less patience.
func connectWithin(from *nstest.NS, to string, patience time.Duration) (conn net.Conn, err error) {
	dial := func() (err error) {
		conn, err = net.DialTimeout("tcp", to, patience)
		return err
	}
	if from == nil {
		return conn, dial()
	}
	return conn, from.Do(dial)
}

// startFirewalld starts a real firewalld. What it returns has it load its rules anew.
func (f *forwarding) startFirewalld() (reload func()) {
	f.Helper()
	if err := unix.Mount("tmpfs", "/var/log", "tmpfs", 0, ""); err != nil { // it writes there
		f.Fatal(err)
	}
	cmd := exec.Command("firewalld", "--nofork", "--nopid", "--system-config", f.TempDir())
	if err := cmd.Start(); err != nil {
		f.Fatalf("starting firewalld, of the package of that name: %v", err)
	}
	f.T.Cleanup(func() { _ = cmd.Process.Signal(unix.SIGTERM); _ = cmd.Wait() })
	bus, err := sysbus.Connect(f.T.Context())
	if err != nil {
		f.Fatal(err)
	}
	f.T.Cleanup(func() { _ = bus.Close() })
	const name = "org.fedoraproject.FirewallD1"
	object := bus.Object(name, "/org/fedoraproject/FirewallD1")
	nstest.Eventually(f.T, limit, "firewalld runs", func() error {
		var state string
		if err := object.StoreProperty(name+".state", &state); err != nil || state != "RUNNING" {
			return fmt.Errorf("it is %q: %w", state, err)
		}
		return nil
	})
	return func() {
		if err := object.Call(name+".reload", 0).Err; err != nil {
			f.Fatal(err)
		}
	}
}

// dockerTables are what dockerd has in nftables, without a port that a test uses.
func dockerTables(t *testing.T) string {
	text, err := os.ReadFile(filepath.Join("..", "..", "pkg", "firewall", "diagnose", "testdata", "corpus", "docker.nft"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "docker.nft")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "dport 8080", "dport 8090")), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestForwardsStay has others flush the rules, and vnetd end in all ways: connections go on,
// and new ones begin in time.
func TestForwardsStay(t *testing.T) {
	byEachBackend(t, func(t *testing.T, f *forwarding) {
		const at = nstest.Uplink + ":8080"
		f.awaits("the forward leads", f.LAN, "tcp", at, nstest.LANHost)
		conn, err := connect(f.LAN, "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		byTables := strings.Contains(nstest.Exec(t, "nft", "list", "tables"), "table ip vnetd\n")
		var reload func()
		for _, event := range []struct {
			what string
			do   func()
		}{
			{"iptables -F", func() { nstest.Exec(t, "iptables", "-F") }},
			{"iptables -t nat -F", func() { nstest.Exec(t, "iptables", "-t", "nat", "-F") }},
			{"nft flush ruleset", func() { nstest.Exec(t, "nft", "flush", "ruleset") }},
			{"Docker comes, by nftables", func() { nstest.Exec(t, "nft", "-f", dockerTables(t)) }},
			{"nft flush ruleset beside Docker", func() { nstest.Exec(t, "nft", "flush", "ruleset") }},
			{"firewalld comes", func() { reload = f.startFirewalld() }},
			{"firewalld reloads", func() { reload() }},
			{"Docker comes, by iptables", func() {
				if byTables {
					return // its policy cuts guests off, of which a condition tells
				}
				for _, rule := range []string{
					"-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-I FORWARD -j DOCKER-USER", "-P FORWARD DROP", "-t nat -N DOCKER",
					"-t nat -I PREROUTING -m addrtype --dst-type LOCAL -j DOCKER", "-t nat -I OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
				} {
					nstest.Exec(t, "iptables", strings.Fields(rule)...)
				}
				f.bridged("1")
			}},
			{"another forward", func() {
				f.define("web", strings.Replace(forwarded, "</network>", "<vnetd:forward proto='tcp' port='22' address='"+nstest.Uplink+"' to='192.0.2.200'/></network>", 1))
			}},
			{"restart", func() {
				left, err := f.vnetd.Leave(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				f.vnetd = f.StartVnetdWith(left)
			}},
			{"SIGKILL", func() { f.vnetd.Kill(); f.vnetd = f.StartVnetd() }},
			{"a flush while no vnetd runs", func() {
				f.vnetd.Kill()
				nstest.Exec(t, "nft", "flush", "ruleset")
				f.vnetd = f.StartVnetd()
			}},
		} {
			event.do()
			f.leadsSoon(event.what, f.LAN, at, nstest.LANHost)
			if event.what == "a flush while no vnetd runs" { // nobody kept the connection
				continue
			}
			f.steady(event.what, conn)
		}
		vnetctl(t, f.Lab, "restart", "web")
		nstest.IP(t, "link set v-web1 master virbr7")
		nstest.Eventually(t, limit, "the bridge passes the guest's frames", func() error {
			if shown := nstest.IP(t, "-d link show v-web1"); !strings.Contains(shown, "state forwarding") {
				return errors.New(shown)
			}
			return nil
		})
		f.leadsSoon("a restart of the network", f.LAN, at, nstest.LANHost)
		if conn, err = connect(f.LAN, "tcp", at); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		f.steady("after all", conn)
		f.define("web", strings.Join(strings.Split(forwarded, "<vnetd:forward")[:1], "")+"</network>")
		if text, err := ask(conn); err == nil {
			t.Errorf("the forward is gone and a connection goes on: %s", text)
		}
		f.nothingLeft()
	})
}

// nothingLeft holds that no forward has left anything.
func (f *forwarding) nothingLeft() {
	f.Helper()
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		if listing := rules(f.T, save); strings.Contains(listing, "DNAT") {
			f.Errorf("rules of forwards are left:\n%s", listing)
		}
	}
	table, err := os.ReadFile("/proc/net/nf_conntrack")
	if err != nil {
		f.Fatal(err)
	}
	if strings.Contains(string(table), "dport=8080") {
		f.Errorf("connections are left:\n%s", table)
	}
	if on := nstest.Exec(f.T, "sysctl", "-n", "net.ipv4.conf.virbr7.route_localnet"); strings.TrimSpace(on) != "0" {
		f.Error("route_localnet is left")
	}
	if routes := nstest.IP(f.T, "-6 route show table local dev virbr7"); strings.Contains(routes, "::1 ") && strings.Contains(routes, "local ::1") {
		f.Errorf("a route to ::1 is left:\n%s", routes)
	}
}

// TestForwardsFollowLeases has a guest give its address back and get another: meanwhile the
// forward waits, and flows find the new address.
func TestForwardsFollowLeases(t *testing.T) {
	byEachBackend(t, func(t *testing.T, f *forwarding) {
		const at = nstest.Uplink + ":8080"
		f.awaits("the forward leads", f.LAN, "udp", at, nstest.LANHost)
		flow, err := connect(f.LAN, "udp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = flow.Close() })
		f.steady("before", flow)
		was := f.web1.IP("-4 -o addr show dev eth0")
		script, bound := filepath.Join(t.TempDir(), "script"), filepath.Join(t.TempDir(), "bound")
		if err := os.WriteFile(script, []byte("#!/bin/sh\n[ $1 != bound ] || touch "+bound+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		client := f.web1.Command(t.Context(), "busybox", "udhcpc", "-f", "-i", "eth0", "-s", script)
		if err := client.Start(); err != nil {
			t.Fatal(err)
		}
		nstest.Eventually(t, limit, "the guest has its lease", func() error { _, err := os.Stat(bound); return err })
		nstest.Eventually(t, limit, "a forward without a guest waits", func() error {
			f.web1.Exec("sh", "-c", "kill -USR2 $(pidof busybox)") // gives the address back
			if got := asked(f.LAN, "tcp", at); !strings.HasSuffix(got, "connection refused") {
				return errors.New(got)
			}
			return nil
		})
		_ = client.Process.Kill()
		_ = client.Wait()
		f.web1.IP("addr flush dev eth0 scope global")
		f.web1.IP("link set eth0 address 52:54:00:00:00:77")
		leaseOf(t, f.web1, "web1")
		f.web1.IP("route add default via 192.0.2.1")
		if is := f.web1.IP("-4 -o addr show dev eth0"); is == was {
			t.Fatalf("the guest has the same address: %s", is)
		}
		f.leadsSoon("another address of the guest", f.LAN, at, nstest.LANHost)
		f.steady("after", flow)
		f.web1.IP("link set eth0 down")
		f.web1.IP("addr flush dev eth0 scope global")
		f.web1.IP("link set eth0 up")
		leaseOf(t, f.web1, "web1")
		f.web1.IP("route add default via 192.0.2.1")
		f.leadsSoon("a reboot of the guest", f.LAN, at, nstest.LANHost)
		f.steady("after a reboot", flow)
	})
}

// TestForwardsClash has forwards be refused whose ports somebody has.
func TestForwardsClash(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		f := newForwarding(t)
		listener, err := net.Listen("tcp", nstest.Uplink+":2222")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		for _, tt := range []struct{ name, forward, want string }{
			{"listener", "proto='tcp' port='2220-2229' to='198.51.100.2'", fmt.Sprintf("pid %d listens at %s:2222", os.Getpid(), nstest.Uplink)},
			{"forward", "proto='udp' port='9001' address='" + nstest.Uplink + "' to='198.51.100.2'", "is forwarded to web1 by network 'web'"},
		} {
			path := filepath.Join(t.TempDir(), "clash.xml")
			document := strings.NewReplacer("<network>", "<network xmlns:vnetd='urn:vnetd:network:1'>", "</network>", "<vnetd:forward "+tt.forward+"/></network>").Replace(beside)
			if err := os.WriteFile(path, []byte(document), 0o644); err != nil {
				t.Fatal(err)
			}
			if r := f.Vnetctl(t.Context(), "define", path); r.Err() == nil || !strings.Contains(r.Stderr, tt.want) {
				t.Errorf("%s: %+v, want %q", tt.name, r, tt.want)
			}
		}
	})
}

// listed are the forwards of web as vnetctl lists them: port, guest, target and lifetime.
func (f *forwarding) listed() (all []string) {
	f.Helper()
	for line := range strings.Lines(vnetctl(f.T, f.Lab, "forward", "list", "web")) {
		if words := strings.Fields(line); words[0] != "UUID" {
			all = append(all, strings.Join(slices.Delete(words[2:], 3, 4), " ")) // but for the number of connections
		}
	}
	return all
}

// lists holds that web has those forwards, soon.
func (f *forwarding) lists(what string, want ...string) {
	f.Helper()
	nstest.Eventually(f.T, limit, what, func() error {
		if diff := cmp.Diff(want, f.listed()); diff != "" {
			return fmt.Errorf("forwards (-want +got):\n%s", diff)
		}
		return nil
	})
}

// counts holds that what goes on by the forward of port 8080 is told, which is at an address
// of the host: connections always, and packets where the kernel counts them.
func (f *forwarding) counts(at string) {
	f.Helper()
	shown := vnetctl(f.T, f.Lab, "forward", "show", "8080")
	if !strings.Contains(shown, "connections:  ") || strings.Contains(shown, "connections:  0") {
		f.Errorf("no connection is counted:\n%s", shown)
	}
	var all []struct{ Connections int }
	if err := json.Unmarshal([]byte(vnetctl(f.T, f.Lab, "forward", "list", "web", "--json")), &all); err != nil || !slices.ContainsFunc(all, func(l struct{ Connections int }) bool { return l.Connections > 0 }) {
		f.Errorf("the list of forwards counts no connection: %+v, %v", all, err)
	}
	if strings.Contains(shown, "packets") {
		f.Errorf("packets are counted where the kernel counts none:\n%s", shown)
	}
	nstest.Exec(f.T, "sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1")
	counted, err := connect(f.LAN, "tcp", at)
	if err != nil {
		f.Fatal(err)
	}
	f.T.Cleanup(func() { _ = counted.Close() })
	f.steady("counted", counted)
	// three that open it, a question, and an answer
	const fewest, header = 5, 40
	var packets, bytes int
	shown = vnetctl(f.T, f.Lab, "forward", "show", "8080")
	_, of, _ := strings.Cut(shown, "of them:")
	if _, err := fmt.Sscanf(strings.TrimSpace(of), "%d packets, %d bytes", &packets, &bytes); err != nil || packets < fewest || bytes < fewest*header {
		f.Errorf("of a question and its answer are counted %d packets, %d bytes (%v):\n%s", packets, bytes, err, shown)
	}
}

// TestForwardsComeAndGo has forwards of all lifetimes come and go, across the death of vnetd.
func TestForwardsComeAndGo(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		f := newForwarding(t)
		f.define("web", strings.Split(forwarded, "<vnetd:forward")[0]+"</network>")
		f.lists("none at first")
		vnetctl(t, f.Lab, "forward", "add", "web", "8080:web1:80", "--from", nstest.LANHost)
		vnetctl(t, f.Lab, "forward", "add", "web", "8080:web1:80", "--from", nstest.LANHost) // the same is there
		vnetctl(t, f.Lab, "forward", "add", "web", nstest.Uplink+":9000-9003:[52:54:00:00:00:99]/udp")
		at := nstest.Uplink + ":8080"
		lasting := []string{"8080/tcp web1 " + strings.Split(strings.Fields(f.web1.IP("-4 -o addr show dev eth0"))[3], "/")[0] + ":80,[2001:db8:7::5]:80 persistent", nstest.Uplink + ":9000-9003/udp 52:54:00:00:00:99 waiting persistent"}
		f.lists("two that stay", lasting...)
		f.awaits("one leads", f.LAN, "tcp", at, nstest.LANHost)
		if got := asked(nil, "tcp", at); !strings.Contains(got, "refused") {
			t.Errorf("who is not among those that may use it is led: %s", got)
		}
		held := exec.CommandContext(t.Context(), filepath.Join(f.Bin, "vnetctl"), "forward", "add", "web", "127.0.0.1:7000:web2:70", "--hold")
		run := exec.CommandContext(t.Context(), filepath.Join(f.Bin, "vnetctl"), "run", "-n", "web:address=192.0.2.77,forward=2222:22", "--", "sh", "-c", "exec sleep 1000", "@n0@")
		for _, cmd := range []*exec.Cmd{held, run} {
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		}
		nstest.Eventually(t, limit, "all are there", func() error {
			if all := f.listed(); len(all) != 4 {
				return fmt.Errorf("forwards: %q", all)
			}
			return nil
		})
		if shown := vnetctl(t, f.Lab, "status", "web"); strings.Contains(shown, "pending") {
			t.Errorf("forwards that somebody holds are to come: %s", shown)
		}
		f.vnetd.Kill()
		f.vnetd = f.StartVnetd()
		shown := vnetctl(t, f.Lab, "forward", "list")
		if !strings.Contains(shown, "127.0.0.1:7000/tcp") || !strings.Contains(shown, "192.0.2.77:22 ") {
			t.Errorf("forwards are lost with vnetd:\n%s", shown)
		}
		_, _ = held.Process.Kill(), run.Process.Kill()
		f.lists("those that somebody held are gone", lasting...)
		if r := f.Vnetctl(t.Context(), "forward", "add", "web", "8080:web2:80"); r.Code != 5 || !strings.Contains(r.Stderr, "leads to web1 already") {
			t.Errorf("a port that another forward has: %+v", r)
		}
		conn, err := connect(f.LAN, "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		f.steady("before", conn)
		f.counts(at)
		vnetctl(t, f.Lab, "forward", "delete", "8080", "web:"+nstest.Uplink+":9000-9003/udp")
		f.lists("all are gone")
		if text, err := ask(conn); err == nil {
			t.Errorf("the forward is gone and a connection goes on: %s", text)
		}
		f.nothingLeft()
		if xml := vnetctl(t, f.Lab, "cat", "web", "--inactive"); strings.Contains(xml, "vnetd:forward") {
			t.Errorf("the definition has forwards:\n%s", xml)
		}
	})
}

// TestForwardsByNFTables leads a port by rules of nftables, while a guest's connection goes
// on.
func TestForwardsByNFTables(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		f := &forwarding{T: t, Lab: nstest.NewLab(t)}
		config := filepath.Join(t.TempDir(), "vnetd.toml")
		if err := os.WriteFile(config, []byte("firewall_backend = \"auto\"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		f.StartVnetd("--config", config)
		f.define("web", strings.Split(forwarded, "<vnetd:forward")[0]+"</network>")
		f.define("beside", beside)
		vnetctl(t, f.Lab, "start", "web")
		vnetctl(t, f.Lab, "start", "beside")
		if tables := nstest.Exec(t, "nft", "list", "tables"); !strings.Contains(tables, "table ip vnetd\n") {
			t.Fatalf("rules are not in nftables:\n%s", tables)
		}
		f.web1 = nstest.Guest(t, "virbr7", "web1", "")
		leaseOf(t, f.web1, "web1")
		f.web1.IP("route add default via 192.0.2.1")
		f.answer(f.web1)
		f.answerAt(f.LAN, 4000)
		conn, err := connect(f.web1, "tcp", nstest.LANHost+":4000")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		f.steady("before", conn)
		vnetctl(t, f.Lab, "forward", "add", "web", "8080:web1:80")
		f.awaits("the forward leads", f.LAN, "tcp", nstest.Uplink+":8080", nstest.LANHost)
		f.steady("after", conn)
		if elements := nstest.Exec(t, "nft", "list", "map", "ip", "vnetd", "arriving_local_port"); !strings.Contains(elements, "tcp . 8080 comment \"web\" : 192.0.2.") {
			t.Errorf("nft lists\n%s", elements)
		}
		vnetctl(t, f.Lab, "forward", "delete", "8080")
		if tables := nstest.Exec(t, "nft", "list", "table", "ip", "vnetd"); strings.Contains(tables, "8080") {
			t.Errorf("without a forward nft lists\n%s", tables)
		}
	})
}

// TestForwardsFollowAddressesOfGuests has a guest make addresses of IPv6 for itself, of which
// nothing was given to it: the forward leads to the one that the host hears of.
func TestForwardsFollowAddressesOfGuests(t *testing.T) {
	byEachBackend(t, func(t *testing.T, f *forwarding) {
		const mac, at = "52:54:00:77:00:01", "[" + nstest.Uplink6 + "]:8081"
		guest := nstest.Guest(t, "virbr7", "made", mac)
		f.answer(guest)
		vnetctl(t, f.Lab, "forward", "add", "web", "8081:["+mac+"]:80")
		speaks := func(addr string) {
			guest.IP("addr add " + addr + "/64 dev eth0 nodad")
			guest.IP("-6 route replace default via 2001:db8:7::1 metric 7")
			f.awaits("the guest finds its gateway, as any does sooner or later", guest, "tcp", "[2001:db8:7::1]:1", "connection refused")
		}
		speaks("2001:db8:7::abcd")
		f.leadsSoon("an address that a guest has made", f.LAN, at, nstest.LANHost6)
		guest.IP("addr flush dev eth0 scope global")
		speaks("2001:db8:7::dcba")
		nstest.IP(t, "-6 neigh flush dev virbr7 to 2001:db8:7::abcd") // as the kernel does that reaches nobody there
		f.leadsSoon("another one", f.LAN, at, nstest.LANHost6)
		f.vnetd.Kill()
		f.vnetd = f.StartVnetd()
		f.leadsSoon("another vnetd", f.LAN, at, nstest.LANHost6)
	})
}
