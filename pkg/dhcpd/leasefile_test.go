package dhcpd_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// fileLeases are leases of both families, and leaseFile is what dnsmasq 2.90 keeps of
// them.
func fileLeases() []dhcpd.Lease {
	end := time.Unix(1800000000, 0).UTC()
	return []dhcpd.Lease{
		{Addr: ip(100), MAC: mac(2), Hostname: "web", ClientID: []byte("\x01abc"), Expiry: end, State: dhcpd.StateBound},
		{Addr: ip(101), MAC: mac(3), State: dhcpd.StateBound},
		{Addr: ip6(0x100), DUID: []byte{0, 3, 0, 1, 0, 0, 0x5e, 0, 0x53, 4}, IAID: 1193046, Hostname: "six", Expiry: end, State: dhcpd.StateBound},
	}
}

const leaseFile = `1800000000 00:00:5e:00:53:02 192.0.2.100 web 01:61:62:63
0 00:00:5e:00:53:03 192.0.2.101 * *
duid 00:03:00:01:00:00:5e:00:53:01
1800000000 1193046 2001:db8:1::100 six 00:03:00:01:00:00:5e:00:53:04
`

func TestLeaseFile(t *testing.T) {
	leases := fileLeases()
	former := dhcpd.Lease{Addr: ip(102), MAC: mac(4), State: dhcpd.StateReleased}
	if diff := cmp.Diff(leaseFile, dhcpd.FormatLeases(append(leases, former), mac(1))); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	got, err := dhcpd.ParseLeases(leaseFile)
	if diff := cmp.Diff(leases, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
		t.Errorf("read (%v) (-want +got):\n%s", err, diff)
	}
	if got := dhcpd.FormatLeases(leases[:2], mac(1)); strings.Contains(got, "duid") {
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
		{"DUID", "0 1 2001:db8::1 * *\n", 0, `reading DUID "*"`},
		{"status", `[{"ip-address": "192.0.2.100", "mac-address": "00:00:5e:00:53:02", "hostname": "web", "client-id": "01:61", "expiry-time": 1800000000},
			{"iaid": "7", "ip-address": "2001:db8::1", "mac-address": "00:00:5e:00:53:02", "client-id": "00:03:00:01", "server-duid": "00:01", "expiry-time": 0}]`, 2, ""},
		{"empty status", "[\n\n]\n", 0, ""},
		{"broken status", `[{"ip-address": 7}]`, 0, "reading leases in JSON"},
		{"status without address", `[{"mac-address": "00:00:5e:00:53:02"}]`, 0, "lease 1: address"},
		{"status without MAC address", `[{"ip-address": "192.0.2.100"}]`, 0, "lease 1: MAC address"},
	} {
		got, err := dhcpd.ParseLeases(c.text)
		if len(got) != c.leases || (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %+v, %v; want %d leases, fault %q", c.name, got, err, c.leases, c.fault)
		}
	}
}

// A lease of another server is its client's, as far as nobody stands in the way.
func TestImport(t *testing.T) {
	cfg := func() dhcpd.Config {
		c := testConfig()
		c.Reservations = append(c.Reservations, dhcpd.Reservation{MAC: mac(9), Addr: ip(105), Name: "nine"})
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		a := e.lease(mac(2))
		soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
		free := ip(100)
		if free == a {
			free = ip(101)
		}
		lease := func(n byte, addr netip.Addr, name string, end time.Time) dhcpd.Lease {
			return dhcpd.Lease{Addr: addr, MAC: mac(n), Hostname: name, Expiry: end, State: dhcpd.StateBound}
		}
		e.events.take()
		taken, refused, err := e.srv.Import(t.Context(), []dhcpd.Lease{
			lease(3, free, "three", soon),
			lease(4, a, "", soon),           // mac(2) has it
			lease(5, ip(105), "", soon),     // reserved
			lease(6, ip(50), "", soon),      // in no range
			lease(7, ip(107), "", past),     // over
			lease(8, ip(108), "nine", soon), // the name is reserved
			lease(2, ip(109), "", soon),     // it has another one
		})
		if taken != 3 || err != nil {
			t.Errorf("%d leases were taken (%v), want 3", taken, err)
		}
		var why []string
		for _, err := range refused {
			why = append(why, err.Error())
		}
		want := []string{
			a.String() + ": address in use", "192.0.2.105: address reserved", "192.0.2.50: address not available",
			"192.0.2.109: its client has " + a.String(),
		}
		if diff := cmp.Diff(want, why); diff != "" {
			t.Errorf("refused (-want +got):\n%s", diff)
		}
		synctest.Wait()
		if got := e.events.take(); len(got) != 2 {
			t.Errorf("events %q, want those of the two running leases", got)
		}
		for _, c := range []struct {
			addr netip.Addr
			name string
		}{{free, "three"}, {ip(108), ""}} {
			if l, ok := e.store.lease(t, c.addr); !ok || l.Hostname != c.name || l.State != dhcpd.StateBound {
				t.Errorf("stored of %v is %+v, want the name %q", c.addr, l, c.name)
			}
		}
		e.want(e.renew(mac(3), free), "ACK "+free.String())
		e.want(e.initReboot(mac(4), free), "NAK address in use")
		if got := e.discover(mac(7)); got != ip(107) {
			t.Errorf("a client whose lease is over is offered %v, want the address that it had", got)
		}
		// The same file again changes nothing but for those renewed here.
		taken, refused, err = e.srv.Import(t.Context(), []dhcpd.Lease{lease(3, free, "three", soon.Add(-time.Minute))})
		if taken != 0 || len(refused) != 1 || err != nil {
			t.Errorf("the second time: %d taken, %v refused (%v)", taken, refused, err)
		}
	})
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
		leases, err := dhcpd.ParseLeases(text)
		if err != nil {
			return
		}
		again, err := dhcpd.ParseLeases(dhcpd.FormatLeases(leases, mac(1)))
		if err != nil || len(again) != len(leases) {
			t.Errorf("%d leases, written and read again %d (%v)", len(leases), len(again), err)
		}
	})
}
