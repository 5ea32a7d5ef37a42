package dhcpd_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
)

// Records that are on disk can be read by later versions.
func TestLeaseJSON(t *testing.T) {
	want := []dhcpd.Lease{
		{
			Addr: dhcpdtest.IP(100), MAC: dhcpdtest.MAC(2), ClientID: []byte{255, 0, 1}, Hostname: "guest",
			Expiry: time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC), State: dhcpd.StateBound,
		},
		{Addr: dhcpdtest.IP(101), MAC: dhcpdtest.MAC(3), State: dhcpd.StateReleased},
		{
			Addr: dhcpdtest.IP6(0x100), MAC: dhcpdtest.MAC(4), DUID: []byte{0, 3, 0, 1, 0, 0, 0x5e, 0, 0x53, 4}, IAID: 7, Hostname: "six",
			Expiry: time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC), State: dhcpd.StateBound,
		},
		{Addr: dhcpdtest.IP6(0x101), DUID: []byte{0, 2, 1}, State: dhcpd.StateDeclined},
	}
	golden, err := os.ReadFile(filepath.Join("testdata", "leases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got []dhcpd.Lease
	if err := json.Unmarshal(golden, &got); err != nil {
		t.Fatal(err)
	}
	opt := cmpopts.EquateComparable(netip.Addr{})
	if diff := cmp.Diff(want, got, opt); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	// Records of the first version, without the fields of DHCPv6, stay as they were.
	data, err := json.MarshalIndent(want, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(golden), string(data)+"\n"); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	for _, bad := range []string{`{"addr":"192.0.2.1","mac":"x","state":"bound"}`, `{"addr":"192.0.2.1","mac":"00:00:5e:00:53:01","state":"odd"}`} {
		if err := json.Unmarshal([]byte(bad), new(dhcpd.Lease)); err == nil {
			t.Errorf("read %s", bad)
		}
	}
}
