package forward_test

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/forward"
)

// web has a guest for which addresses are reserved, and forwards to that and others.
const web = `<network xmlns:vnetd='urn:vnetd:network:1'><name>web</name><forward mode='nat'/><domain name='vm.example'/>
<ip address='192.0.2.1' prefix='24'><dhcp><range start='192.0.2.10' end='192.0.2.99'/><host mac='52:54:00:00:00:05' name='kept' ip='192.0.2.5'/></dhcp></ip>
<ip family='ipv6' address='2001:db8::1' prefix='64'/>
<vnetd:forward proto='tcp' port='80' to='web1'/>
<vnetd:forward proto='tcp' port='81' to='Kept.vm.example'/>
<vnetd:forward proto='tcp' port='82' to='52:54:00:00:00:07'/>
<vnetd:forward proto='tcp' port='83' to='192.0.2.8'/>
<vnetd:forward proto='tcp' port='84' address='::' to='web1' to-port='8080'/></network>`

func addrs(texts ...string) (all []netip.Addr) {
	for _, s := range texts {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

// leads are where the forwards lead, by the port of the host, in whichever order.
func leads(all []firewall.Forward) (out []netip.AddrPort) {
	for _, f := range all {
		out = append(out, netip.AddrPortFrom(f.To, f.Ports.Start))
	}
	slices.SortFunc(out, func(a, b netip.AddrPort) int {
		return cmp.Or(cmp.Compare(a.Port(), b.Port()), a.Addr().Compare(b.Addr()))
	})
	return out
}

// TestResolve tells where forwards lead by what is known of guests.
func TestResolve(t *testing.T) {
	doc, err := netdef.Parse([]byte(web))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(); err != nil {
		t.Fatal(err)
	}
	const mac1, mac2, kept, mac7 = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:05", "52:54:00:00:00:07"
	lease := func(name, mac string, leased ...string) forward.Guest {
		return forward.Guest{Name: name, MACs: []string{mac}, Leased: addrs(leased...)}
	}
	var former []firewall.Forward
	for _, tt := range []struct {
		what   string
		guests forward.Guests
		want   []string
	}{
		{"nobody is known", forward.Guests{}, []string{"192.0.2.5:81", "192.0.2.8:83"}},
		{
			"leases",
			forward.Guests{Leases: []forward.Guest{lease("web1", mac1, "192.0.2.10"), lease("WEB1", mac1, "2001:db8::10"), lease("x", mac7, "192.0.2.11")}},
			[]string{"192.0.2.10:80", "[2001:db8::10]:80", "192.0.2.5:81", "192.0.2.11:82", "192.0.2.8:83", "[2001:db8::10]:84"},
		},
		{
			"another says that its name is the same, before it in the list",
			forward.Guests{Leases: []forward.Guest{lease("web1", mac2, "192.0.2.9"), lease("web1", mac1, "192.0.2.10"), lease("kept", mac2, "192.0.2.9")}},
			[]string{"192.0.2.10:80", "192.0.2.5:81", "192.0.2.8:83"},
		},
		{
			"whose name is known for certain, and who has another address than is reserved",
			forward.Guests{
				Ports:  []forward.Guest{{Name: "web1", MACs: []string{mac2}, Reserved: addrs("192.0.2.20")}},
				Leases: []forward.Guest{lease("web1", mac1, "192.0.2.10"), lease("", kept, "192.0.2.21")},
			},
			[]string{"192.0.2.20:80", "192.0.2.21:81", "192.0.2.8:83"},
		},
		{"leases can't be told", forward.Guests{Unknown: true}, []string{"192.0.2.20:80", "192.0.2.21:81", "192.0.2.8:83"}},
		{
			"addresses of nobody in the network",
			forward.Guests{Leases: []forward.Guest{lease("web1", mac1, "198.51.100.1"), lease("web1", mac1, "192.0.2.1")}},
			[]string{"192.0.2.5:81", "192.0.2.8:83"},
		},
	} {
		former = forward.Resolve(doc, tt.guests, former)
		var want []netip.AddrPort
		for _, s := range tt.want {
			want = append(want, netip.MustParseAddrPort(s))
		}
		if diff := gocmp.Diff(want, leads(former), gocmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.what, diff)
		}
	}
}

// TestResolveMade tells where forwards lead to addresses that guests have made for
// themselves, as the host hears of them and forgets them.
func TestResolveMade(t *testing.T) {
	doc, err := netdef.Parse([]byte(`<network xmlns:vnetd='urn:vnetd:network:1'><name>web</name><forward mode='nat'/>
<ip family='ipv6' address='2001:db8::1' prefix='64'><dhcp><range start='2001:db8::100' end='2001:db8::1ff'/></dhcp></ip>
<vnetd:forward proto='tcp' port='80' to='web1'/><vnetd:forward proto='tcp' port='81' to='52:54:00:00:00:07'/></network>`))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(); err != nil {
		t.Fatal(err)
	}
	const mac1, mac7 = "52:54:00:00:00:01", "52:54:00:00:00:07"
	made := func(mac, addr string) forward.Guest {
		return forward.Guest{MACs: []string{mac}, Leased: addrs(addr)}
	}
	ports := []forward.Guest{{Name: "web1", MACs: []string{mac1}}}
	leased := []forward.Guest{{Name: "x", MACs: []string{"52:54:00:00:00:09"}, Leased: addrs("2001:db8::a")}}
	var former []firewall.Forward
	for _, tt := range []struct {
		what            string
		learned, leases []forward.Guest
		ports           []forward.Guest
		deaf            bool
		want            []string
	}{
		{"nothing is heard", nil, nil, ports, false, nil},
		{"both are heard", []forward.Guest{made(mac1, "fe80::1"), made(mac1, "2001:db8::a"), made(mac7, "2001:db8::7")}, nil, ports, false, []string{"[2001:db8::a]:80", "[2001:db8::7]:81"}},
		{"vnetd has just started", nil, nil, ports, true, []string{"[2001:db8::a]:80", "[2001:db8::7]:81"}},
		{"a known one is silent, and one that may be gone", nil, nil, ports, false, []string{"[2001:db8::a]:80"}},
		{"another address beside", []forward.Guest{made(mac1, "2001:db8::9"), made(mac1, "2001:db8::a")}, nil, ports, false, []string{"[2001:db8::a]:80"}},
		{"another address", []forward.Guest{made(mac1, "2001:db8::b")}, nil, ports, false, []string{"[2001:db8::b]:80"}},
		{"somebody else has it", []forward.Guest{made(mac7, "2001:db8::b")}, nil, ports, false, []string{"[2001:db8::b]:81"}},
		{"again", []forward.Guest{made(mac1, "2001:db8::a")}, nil, ports, false, []string{"[2001:db8::a]:80"}},
		{"it is given to somebody else", nil, leased, ports, false, nil},
		{"one that is given ends", []forward.Guest{made(mac1, "2001:db8::101")}, nil, ports, false, []string{"[2001:db8::101]:80"}},
		{"and is not kept", nil, nil, ports, false, nil},
	} {
		guests := forward.Guests{Ports: tt.ports, Leases: tt.leases, Learned: tt.learned, Deaf: tt.deaf, Made: func(a netip.Addr) bool { return forward.Made(doc, a) }}
		former = forward.Resolve(doc, guests, former)
		var want []netip.AddrPort
		for _, s := range tt.want {
			want = append(want, netip.MustParseAddrPort(s))
		}
		if diff := gocmp.Diff(want, leads(former), gocmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.what, diff)
		}
	}
}
