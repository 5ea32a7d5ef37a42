package v4_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// NetworkManager's own client gets a lease, renews it, and has it again after a reboot.
func TestNetworkManager(t *testing.T) {
	const hw = "00:00:5e:00:53:47"
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		cfg := testConfig()
		cfg.LeaseTime = dhcpdtest.ShortLease
		e := start(t, cfg, nil, v4.Open)
		s := dhcpdtest.NewSystem(t, "NetworkManager", "g1", hw, "")
		only := []*dhcpdtest.System{s}
		s.Start("")
		dhcpdtest.Expect(t, e.events, "bound", only)
		dhcpdtest.Expect(t, e.events, "renewed", only)
		had := wantLease(t, e, hw, "nmguest").Addr
		if a := s.Addr(); a != had {
			t.Errorf("the guest has %v, its lease is %v", a, had)
		}
		s.Stop(false)
		s.Guest.IP("-4 addr flush dev eth0")
		e.events.Take()
		s.Start("")
		dhcpdtest.Expect(t, e.events, "renewed or bound", only)
		if l := wantLease(t, e, hw, "nmguest"); l.Addr != had {
			t.Errorf("after a reboot the lease is %v, was %v", l.Addr, had)
		}
	})
}

// cloud-init asks once with the client that the image has, to reach the metadata service.
// The system that follows has the same address, unless both call themselves otherwise: as
// dhcpcd, which makes a DUID, and networkd, which has another one.
func TestCloudInit(t *testing.T) {
	const hw = "00:00:5e:00:53:48"
	for _, c := range []struct {
		client string
		argv   func(dir string) []string
		noted  string // where the client's lease is to stand
		same   bool
	}{
		{"dhclient", func(dir string) []string {
			return []string{"dhclient", "-1", "-v", "-lf", dir + "/leases", "-pf", dir + "/pid", "eth0", "-sf", "/bin/true"}
		}, "leases", true},
		{"dhcpcd", func(dir string) []string {
			return []string{
				"sh", "-c", `mount --bind "$0" /var/lib/dhcpcd; mount -t tmpfs tmpfs /run; exec "$@"`, dir,
				"dhcpcd", "--oneshot", "--ipv4only", "--waitip", "--persistent", "--noarp", "--script=/bin/true", "eth0",
			}
		}, "eth0.lease", false},
	} {
		t.Run(c.client, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				e, guest := clientEnv(t, hw)
				dir := t.TempDir()
				argv := c.argv(dir)
				dhcpdtest.RunClient(t, guest, argv[0], argv[1:]...)
				first := e.srv.Leases()
				if len(first) != 1 || first[0].MAC.String() != hw {
					t.Fatalf("leases are %+v", first)
				}
				if noted, err := os.ReadFile(filepath.Join(dir, c.noted)); err != nil || !strings.Contains(string(noted), first[0].Addr.String()) &&
					!bytes.Contains(noted, first[0].Addr.AsSlice()) {
					t.Errorf("the client noted %q, %v", noted, err)
				}
				pid, _ := os.ReadFile(filepath.Join(dir, "pid"))
				if len(pid) > 0 {
					_ = guest.Command(t.Context(), "kill", strings.TrimSpace(string(pid))).Run() // it may have ended
				}
				guest.IP("link set eth0 down")
				e.events.Take()
				s := dhcpdtest.NewSystem(t, "networkd", "g2", hw, "")
				s.Start("")
				nstest.Eventually(t, dhcpdtest.ClientLimit, "the system has its address", func() error {
					if !s.Addr().IsValid() {
						return errors.New(s.Read("log"))
					}
					return nil
				})
				if a := s.Addr(); (a == first[0].Addr) != c.same {
					t.Errorf("cloud-init had %v, the system has %v; leases %+v", first[0].Addr, a, e.srv.Leases())
				}
			})
		})
	}
}

// pattern is what a guest of one kind sends, as it was seen on links.
type pattern struct {
	discover, request, renew, inform []mod
	rapid                            bool // DISCOVER is answered with an ACK
}

// prl is a parameter request list.
func prl(codes ...byte) mod { return opt(dhcpv4.OptionParameterRequestList, codes...) }

// windows is Windows 10: a list with WPAD (252) and Microsoft's routes (249), and the
// broadcast flag of a card that asks for the first time.
func windows() pattern {
	id := clientID("\x01" + string(mac(2)))
	class := opt(dhcpv4.OptionClassIdentifier, []byte("MSFT 5.0")...)
	list := prl(1, 3, 6, 15, 31, 33, 43, 44, 46, 47, 119, 121, 249, 252)
	name := hostname("DESKTOP-4F2K9")
	fqdn := opt(dhcpv4.OptionFQDN, []byte("\x00\x00\x00DESKTOP-4F2K9")...)
	return pattern{
		discover: []mod{broadcastFlag, id, name, class, list},
		request:  []mod{broadcastFlag, id, name, fqdn, class, list},
		renew:    []mod{id, name, fqdn, class, list},
		inform:   []mod{id, name, class, prl(1, 15, 3, 6, 44, 46, 47, 31, 33, 121, 249, 43, 252)},
	}
}

// android is Android 14, which takes an address at once (option 80) and can do without
// IPv4 (option 108).
func android() pattern {
	all := []mod{
		clientID("\x01" + string(mac(2))), opt(dhcpv4.OptionMaximumDHCPMessageSize, 5, 0xdc), opt(dhcpv4.OptionClassIdentifier, []byte("android-dhcp-14")...),
		prl(1, 3, 6, 15, 26, 28, 51, 58, 59, 43, 114, 108),
	}
	return pattern{discover: append(all, opt(dhcpv4.OptionRapidCommit)), request: all, renew: all, rapid: true}
}

// lwip is lwIP 2: a short list, the least message that a server may send, and no
// identifier when it renews.
func lwip() pattern {
	all := []mod{opt(dhcpv4.OptionMaximumDHCPMessageSize, 2, 0x40), prl(1, 3, 28, 6), hostname("sensor")}
	return pattern{discover: append(all, clientID("\x01"+string(mac(2)))), request: append(all, clientID("\x01"+string(mac(2)))), renew: all}
}

// told is what the user of a guest sees of a reply: the options of these codes.
func told(r reply, codes ...byte) string {
	text := fmt.Sprint(r.MessageType(), " flags ", r.Flags)
	for _, code := range codes {
		if r.Options.Has(dhcpv4.GenericOptionCode(code)) {
			text += fmt.Sprintf(" %d:%x", code, r.Options.Get(dhcpv4.GenericOptionCode(code)))
		}
	}
	return text
}

// Guests whose programs are not at hand get what they need for the messages that they
// send: an address that stays theirs, and each option that they ask for and nothing more.
func TestMessagePatterns(t *testing.T) {
	const link = "1:ffffff00 3:c0000201 6:c0000201"
	const domain = " 15:766d2e6578616d706c65"
	const search = " 119:02766d076578616d706c6500"
	for _, c := range []struct {
		name             string
		pattern          pattern
		options          []dhcpd.Option
		first, ack       string // to DISCOVER and REQUEST
		inform, hostname string
	}{
		{
			name: "Windows", pattern: windows(), hostname: "DESKTOP-4F2K9",
			first: "OFFER flags 32768 " + link + domain + search, ack: "ACK flags 32768 " + link + domain + " 81:03ffff4445534b544f502d3446324b392e766d2e6578616d706c65" + search,
			inform: "ACK flags 0 " + link + domain,
		},
		{
			name: "Windows with WPAD", pattern: windows(), hostname: "DESKTOP-4F2K9", options: []dhcpd.Option{{Code: 252, Value: []byte("\n")}},
			first: "OFFER flags 32768 " + link + domain + search + " 252:0a", ack: "ACK flags 32768 " + link + domain + " 81:03ffff4445534b544f502d3446324b392e766d2e6578616d706c65" + search + " 252:0a",
			inform: "ACK flags 0 " + link + domain + " 252:0a",
		},
		{
			name: "Android", pattern: android(),
			first: "ACK flags 0 " + link + domain + " 28:c00002ff 51:00000e10 80:", ack: "ACK flags 0 " + link + domain + " 28:c00002ff 51:00000e10",
		},
		{
			name: "Android on a link of IPv6", pattern: android(), options: []dhcpd.Option{{Code: 108, Value: []byte{0, 0, 7, 8}}},
			first: "ACK flags 0 " + link + domain + " 28:c00002ff 51:00000e10 80: 108:00000708",
			ack:   "ACK flags 0 " + link + domain + " 28:c00002ff 51:00000e10 108:00000708",
		},
		{
			name: "lwIP", pattern: lwip(), hostname: "sensor",
			first: "OFFER flags 0 " + link + " 28:c00002ff", ack: "ACK flags 0 " + link + " 28:c00002ff",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := func() v4.Config {
				cfg := testConfig()
				cfg.Options = c.options
				return cfg
			}
			both(t, cfg, func(t *testing.T, e *env) {
				codes := []byte{1, 3, 6, 15, 81, 119, 249, 252}
				if c.pattern.inform == nil {
					codes = []byte{1, 3, 6, 12, 15, 28, 51, 80, 108}
				}
				if c.name == "lwIP" {
					codes = []byte{1, 3, 6, 12, 15, 28}
				}
				r := e.ask(dhcpv4.MessageTypeDiscover, mac(2), c.pattern.discover...)
				if got := told(r, codes...); got != c.first {
					t.Errorf("DISCOVER: got %s\nwant %s", got, c.first)
				}
				a := r.yiaddr()
				if !c.pattern.rapid {
					r = e.selecting(mac(2), a, c.pattern.request...)
					if got := told(r, codes...); got != c.ack {
						t.Errorf("REQUEST: got %s\nwant %s", got, c.ack)
					}
				}
				e.want(e.renew(mac(2), a, c.pattern.renew...), fmt.Sprint("ACK ", a))
				e.want(e.initReboot(mac(2), a, c.pattern.request...), fmt.Sprint("ACK ", a))
				if c.pattern.inform != nil {
					e.sendTo(serverAddr, dhcpv4.MessageTypeInform, mac(2), append(c.pattern.inform, ciaddr(a))...)
					if got := told(e.receive(), codes...); got != c.inform {
						t.Errorf("INFORM: got %s\nwant %s", got, c.inform)
					}
				}
				onlyLease(t, e, a, c.hostname)
			})
		})
	}
}

// onlyLease fails the test unless the client has one lease, of that address and name.
func onlyLease(t *testing.T, e *env, a netip.Addr, name string) {
	t.Helper()
	l := e.srv.Leases()
	if len(l) != 1 || l[0].Addr != a || l[0].Hostname != name || time.Until(l[0].Expiry) < 59*time.Minute {
		t.Errorf("leases are %+v, want one of %v, name %q", l, a, name)
	}
}
