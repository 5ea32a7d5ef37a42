package netdef_test

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/netdef"
)

func TestComplete(t *testing.T) {
	tests := []struct {
		name, xml, want string
		taken           []string
	}{
		{name: "isolated", xml: network(""), taken: []string{"virbr0", "virbr1"}, want: `<network>
  <name>n</name>
  <uuid>01010101-0101-4101-8101-010101010101</uuid>
  <bridge name='virbr2' stp='on' delay='0'/>
  <mac address='52:54:00:01:01:01'/>
</network>
`},
		{name: "template", xml: network("<forward/><bridge name='vn%dx'/><ip address='10.0.0.1'/>"), want: `<network>
  <name>n</name>
  <uuid>01010101-0101-4101-8101-010101010101</uuid>
  <forward mode='nat'/>
  <bridge name='vn0x' stp='on' delay='0'/>
  <mac address='52:54:00:01:01:01'/>
  <ip address='10.0.0.1'>
  </ip>
</network>
`},
		{name: "given", xml: network("<uuid>40B7C06897914466BFA677CA0BEDB2E4</uuid><bridge name='b' stp='off' delay='3'/><mac address='2:0:0:0:53:1'/>"), want: `<network>
  <name>n</name>
  <uuid>40b7c068-9791-4466-bfa6-77ca0bedb2e4</uuid>
  <bridge name='b' stp='off' delay='3'/>
  <mac address='02:00:00:00:53:01'/>
</network>
`},
		{name: "chosen subnet of a length", xml: extended("<uuid>40B7C06897914466BFA677CA0BEDB2E4</uuid><bridge name='b'/><mac address='2:0:0:0:53:1'/><vnetd:subnet auto='yes' family='ipv4' prefix='26'/>"), want: `<network>
  <name>n</name>
  <uuid>40b7c068-9791-4466-bfa6-77ca0bedb2e4</uuid>
  <bridge name='b' stp='on' delay='0'/>
  <mac address='02:00:00:00:53:01'/>
  <ip address='192.168.100.1' netmask='255.255.255.192'>
    <dhcp>
      <range start='192.168.100.2' end='192.168.100.62'/>
    </dhcp>
  </ip>
</network>
`},
		{name: "chosen subnets", xml: extended("<forward/><bridge name='b'/><vnetd:subnet auto='yes'/>"), want: `<network>
  <name>n</name>
  <uuid>01010101-0101-4101-8101-010101010101</uuid>
  <forward mode='nat'/>
  <bridge name='b' stp='on' delay='0'/>
  <mac address='52:54:00:01:01:01'/>
  <ip address='192.168.100.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.100.2' end='192.168.100.254'/>
    </dhcp>
  </ip>
  <ip family='ipv6' address='fd01:101:101::1' prefix='64'>
    <dhcp>
      <range start='fd01:101:101::100' end='fd01:101:101::ffff'/>
    </dhcp>
  </ip>
</network>
`},
		{name: "bridge of the host", xml: network("<forward mode='bridge'/><bridge name='br0'/>"), want: `<network>
  <name>n</name>
  <uuid>01010101-0101-4101-8101-010101010101</uuid>
  <forward mode='bridge'/>
  <bridge name='br0'/>
</network>
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := parse(t, []byte(tt.xml))
			c := netdef.Completion{
				Rand:        bytes.NewReader(bytes.Repeat([]byte{1}, 24)),
				BridgeTaken: func(name string) bool { return strings.Contains(strings.Join(tt.taken, " "), name) },
			}
			if err := n.Complete(c); err != nil {
				t.Fatalf("Complete: %v", err)
			}
			if diff := cmp.Diff(tt.want, string(n.XML())); diff != "" {
				t.Errorf("XML (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCompleteFails(t *testing.T) {
	n := parse(t, []byte(network("<bridge name='a-longer-name-%d'/>")))
	asked := 0
	err := n.Complete(netdef.Completion{BridgeTaken: func(string) bool { asked++; return true }})
	if err == nil || asked != 10 {
		t.Errorf("no name free: got %v after %d names, want an error after the 10 that fit", err, asked)
	}
	n = parse(t, []byte(network("")))
	if err := n.Complete(netdef.Completion{Rand: bytes.NewReader(nil)}); err == nil {
		t.Error("no random bytes: got no error")
	}
}

func TestConflicts(t *testing.T) {
	const (
		uuid1 = "<uuid>00000000-0000-4000-8000-000000000001</uuid>"
		uuid2 = "<uuid>00000000-0000-4000-8000-000000000002</uuid>"
	)
	other := "<network><name>other</name>" + uuid1 + "<bridge name='virbr0'/><ip address='192.0.2.1' prefix='24'/><ip family='ipv6' address='2001:db8::1' prefix='64'/></network>"
	tests := []struct {
		name, xml, want string
		overlaps        bool
	}{
		{"itself", other, "", false},
		{"itself without uuid", strings.Replace(other, uuid1, "", 1), "", false},
		{"nothing shared", network(uuid2 + "<bridge name='virbr1'/><ip address='198.51.100.1' prefix='24'/>"), "", false},
		{"no uuid, no bridge", network(""), "", false},
		{
			"name", strings.Replace(other, uuid1, uuid2, 1),
			"network/name: 'other': a network of this name exists with uuid 00000000-0000-4000-8000-000000000001", false,
		},
		{"uuid", network(uuid1), "network/uuid: '00000000-0000-4000-8000-000000000001': the uuid is that of network 'other'", false},
		{"bridge", network("<bridge name='virbr0'/>"), "network/bridge/@name: 'virbr0': the bridge is that of network 'other'", false},
		{"bridge of the host", network("<forward mode='bridge'/><bridge name='virbr0'/>"), "", false},
		{
			"subnets", network("<ip address='198.51.100.1' prefix='24'/><ip address='192.0.2.129' prefix='25'/><ip family='ipv6' address='2001:db8:0:0:1::1' prefix='80'/>"),
			"network/ip[2]/@address: '192.0.2.129/25': overlaps the subnet 192.0.2.0/24 of network 'other'\n" +
				"network/ip[3]/@address: '2001:db8::1:0:0:1/80': overlaps the subnet 2001:db8::/64 of network 'other'", true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, others := parse(t, []byte(tt.xml)), []*netdef.Network{parse(t, []byte(other))}
			err := netdef.Conflicts(n, others)
			if tt.overlaps {
				if err != nil {
					t.Errorf("Conflicts of subnets: %v", err)
				}
				err = netdef.Overlaps(n, nil, others)
				if again := netdef.Overlaps(n, n, others); again != nil {
					t.Errorf("Overlaps of subnets that it has already: %v", again)
				}
			}
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Conflicts (-want +got):\n%s", diff)
			}
			if c := (*netdef.Conflict)(nil); err != nil && (!errors.As(err, &c) || c.Network != "other") {
				t.Errorf("errors.As gives %v, want a conflict with other", c)
			}
		})
	}
}

func TestIPPrefix(t *testing.T) {
	tests := []struct {
		ip   netdef.IP
		want string
	}{
		{netdef.IP{Address: netip.MustParseAddr("10.1.2.3")}, "10.1.2.3/8"},
		{netdef.IP{Address: netip.MustParseAddr("172.16.0.1")}, "172.16.0.1/16"},
		{netdef.IP{Address: netip.MustParseAddr("192.168.0.1")}, "192.168.0.1/24"},
		{netdef.IP{Address: netip.MustParseAddr("240.0.0.1")}, "invalid Prefix"},
		{netdef.IP{Address: netip.MustParseAddr("2001:db8::1")}, "2001:db8::1/64"},
		{netdef.IP{Address: netip.MustParseAddr("192.168.0.1"), PrefixLength: 20}, "192.168.0.1/20"},
		{netdef.IP{Address: netip.MustParseAddr("192.168.0.1"), PrefixLength: 33}, "invalid Prefix"},
		{netdef.IP{Address: netip.MustParseAddr("192.168.0.1"), Netmask: netip.MustParseAddr("255.255.255.252")}, "192.168.0.1/30"},
		{netdef.IP{Address: netip.MustParseAddr("192.168.0.1"), Netmask: netip.MustParseAddr("255.0.255.0")}, "invalid Prefix"},
		{netdef.IP{}, "invalid Prefix"},
	}
	for _, tt := range tests {
		if got := tt.ip.Prefix().String(); got != tt.want {
			t.Errorf("%+v: got %s, want %s", tt.ip, got, tt.want)
		}
	}
}

func TestLeaseTime(t *testing.T) {
	tests := []struct {
		lease    *netdef.LeaseTime
		want     time.Duration
		infinite bool
	}{
		{nil, 0, false},
		{&netdef.LeaseTime{}, 0, true},
		{&netdef.LeaseTime{Expiry: 5}, 5 * time.Minute, false},
		{&netdef.LeaseTime{Expiry: 5, Unit: "minutes"}, 5 * time.Minute, false},
		{&netdef.LeaseTime{Expiry: 300, Unit: "seconds"}, 5 * time.Minute, false},
		{&netdef.LeaseTime{Expiry: 2, Unit: "hours"}, 2 * time.Hour, false},
		{&netdef.LeaseTime{Expiry: 1 << 63, Unit: "hours"}, (1<<32 - 2) * time.Second, false},
	}
	for _, tt := range tests {
		if d, infinite := tt.lease.Duration(); d != tt.want || infinite != tt.infinite {
			t.Errorf("%+v: got %v, %v, want %v, %v", tt.lease, d, infinite, tt.want, tt.infinite)
		}
	}
}
