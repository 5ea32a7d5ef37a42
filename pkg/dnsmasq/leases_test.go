package dnsmasq_test

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vnetd/vnetd/pkg/dnsmasq"
)

// fileLeases are leases of both families, and leaseFile is what dnsmasq 2.90 keeps of
// them.
func fileLeases() []dnsmasq.Lease {
	end := time.Unix(1800000000, 0).UTC()
	return []dnsmasq.Lease{
		{Addr: netip.MustParseAddr("192.0.2.100"), MAC: net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 2}, Hostname: "web", ClientID: []byte("\x01abc"), Expiry: end},
		{Addr: netip.MustParseAddr("192.0.2.101"), MAC: net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 3}},
		{Addr: netip.MustParseAddr("2001:db8:1::100"), DUID: []byte{0, 3, 0, 1, 0, 0, 0x5e, 0, 0x53, 4}, IAID: 1193046, Hostname: "six", Expiry: end},
	}
}

// serverDUID is the server's DUID in leaseFile.
var serverDUID = []byte{0, 3, 0, 1, 0, 0, 0x5e, 0, 0x53, 1}

const leaseFile = `1800000000 00:00:5e:00:53:02 192.0.2.100 web 01:61:62:63
0 00:00:5e:00:53:03 192.0.2.101 * *
duid 00:03:00:01:00:00:5e:00:53:01
1800000000 1193046 2001:db8:1::100 six 00:03:00:01:00:00:5e:00:53:04
`

func TestLeaseFile(t *testing.T) {
	leases := fileLeases()
	if diff := cmp.Diff(leaseFile, dnsmasq.FormatLeases(leases, serverDUID)); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	got, err := dnsmasq.ParseLeases(leaseFile)
	if diff := cmp.Diff(leases, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
		t.Errorf("read (%v) (-want +got):\n%s", err, diff)
	}
	if got := dnsmasq.FormatLeases(leases[:2], serverDUID); strings.Contains(got, "duid") {
		t.Errorf("the server's DUID is in a file without IPv6:\n%s", got)
	}
}

// What stands in lease files besides.
func TestLeaseFileOddities(t *testing.T) {
	for _, c := range []struct {
		name, text string
		leases     int
		fault      string // in the error, empty for none
	}{
		{"empty", "\n", 0, ""},
		{"no host name", "0 00:00:5e:00:53:02 192.0.2.100 my_host *\n", 1, ""},
		{"token ring", "0 06-00:00:5e:00:53:02 192.0.2.100 * *\n", 0, ""},
		{"temporary address", "0 T7 2001:db8::1 * 00:01:00:01\n", 0, ""},
		{"fields", "0 00:00:5e:00:53:02 192.0.2.100 *\n", 0, "line 1: 4 fields, want 5"},
		{"expiry", "\nsoon 00:00:5e:00:53:02 192.0.2.100 * *\n", 0, `line 2: expiry: "soon"`},
		{"MAC address", "0 00:00:5e 192.0.2.100 * *\n", 0, `MAC address: "00:00:5e"`},
		{"address", "0 00:00:5e:00:53:02 192.0.2 * *\n", 0, `address: "192.0.2"`},
		{"zone", "0 1 fe80::1%eth0 * 00:01:00:01\n", 0, "address:"},
		{"client id", "0 00:00:5e:00:53:02 192.0.2.100 * 01:0\n", 0, `client id: "01:0"`},
		{"IAID", "0 x 2001:db8::1 * 00:01:00:01\n", 0, `IAID: "x"`},
		{"DUID", "0 1 2001:db8::1 * *\n", 0, `DUID: "*"`},
		{"status", `[{"ip-address": "192.0.2.100", "mac-address": "00:00:5e:00:53:02", "hostname": "web", "client-id": "01:61", "expiry-time": 1800000000},
			{"iaid": "7", "ip-address": "2001:db8::1", "mac-address": "00:00:5e:00:53:02", "client-id": "00:03:00:01", "server-duid": "00:01", "expiry-time": 0}]`, 2, ""},
		{"empty status", "[\n\n]\n", 0, ""},
		{"broken status", `[{"ip-address": 7}]`, 0, "reading leases in JSON"},
		{"status without address", `[{"mac-address": "00:00:5e:00:53:02"}]`, 0, "lease 1: address"},
		{"status without MAC address", `[{"ip-address": "192.0.2.100"}]`, 0, "lease 1: MAC address"},
	} {
		got, err := dnsmasq.ParseLeases(c.text)
		if len(got) != c.leases || (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %+v, %v; want %d leases, fault %q", c.name, got, err, c.leases, c.fault)
		}
	}
}

// Whatever the file is, it is read without a crash, and what is read can be written
// and read again.
func FuzzLeaseFile(f *testing.F) {
	f.Add(leaseFile)
	status, err := os.ReadFile("../../test/testdata/libvirt/var/lib/libvirt/dnsmasq/virbr0.status") // libvirt 9.0.0
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(status))
	f.Add(`[{"iaid": "7", "ip-address": "2001:db8::1", "mac-address": "00:00:5e:00:53:02", "client-id": "00:03:00:01", "expiry-time": 0}]`)
	f.Fuzz(func(t *testing.T, text string) {
		leases, err := dnsmasq.ParseLeases(text)
		if err != nil {
			return
		}
		again, err := dnsmasq.ParseLeases(dnsmasq.FormatLeases(leases, serverDUID))
		if err != nil || len(again) != len(leases) {
			t.Errorf("%d leases, written and read again %d (%v)", len(leases), len(again), err)
		}
	})
}
