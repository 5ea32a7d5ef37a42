package tc

import (
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/golden"
)

// TestPlan compares the classes of many bandwidths with what they were.
func TestPlan(t *testing.T) {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 2}
	var all string
	for _, cfg := range []Config{
		{},
		{Egress: &Rate{Average: 125_000}},
		{Egress: &Rate{Average: 1}, Ingress: &Rate{Average: 1 << 50, Peak: 1 << 51, Burst: 1 << 40}},
		{Ingress: &Rate{Average: 12_500_000, Peak: 25_000_000, Burst: 1 << 20}},
		{Shared: true, Egress: &Rate{Average: 12_500_000}},
		{Shared: true, Egress: &Rate{Average: 12_500_000, Peak: 25_000_000}, Floors: []Floor{{3, mac, 1_250_000}, {7, mac, 125_000}}},
		{Shared: true, Egress: &Rate{Average: 1000, Peak: 9000, Burst: 1024}, Floors: []Floor{{3, mac, 9000}}},
	} {
		egress, ingress := plan(cfg)
		all += fmt.Sprintf("to guests: %v\n%+v\nfrom guests: %v\n%+v\n\n", egress, egress.classes, ingress, ingress.classes)
	}
	golden.Compare(t, "testdata/plan.golden", all)
}

// TestRefused has what the kernel would misunderstand be refused.
func TestRefused(t *testing.T) {
	rate, mac := &Rate{Average: 1000}, net.HardwareAddr{0x52, 0x54, 0, 0, 0, 2}
	for _, cfg := range []Config{
		{Egress: &Rate{}},
		{Ingress: &Rate{Peak: 1}},
		{Egress: rate, Floors: []Floor{{3, mac, 1}}},
		{Shared: true, Floors: []Floor{{3, mac, 1}}},
		{Shared: true, Egress: rate, Floors: []Floor{{3, mac, 0}}},
		{Shared: true, Egress: rate, Floors: []Floor{{3, nil, 1}}},
		{Shared: true, Egress: rate, Floors: []Floor{{2, mac, 1}}},
		{Shared: true, Egress: rate, Floors: []Floor{{3, mac, 1}, {3, mac, 1}}},
	} {
		if err := cfg.validate(); err == nil {
			t.Errorf("%+v is not refused", cfg)
		}
	}
}

// TestLacking names the module that the kernel says it has not, and no other error.
func TestLacking(t *testing.T) {
	for _, err := range []error{unix.ENOENT, unix.EOPNOTSUPP} {
		if got := lacking(err, "sch_htb"); got.Error() != "the kernel lacks a module, sch_htb: "+err.Error() {
			t.Errorf("%v is said as %v", err, got)
		}
	}
	if got := lacking(unix.ENODEV, "sch_htb"); got != unix.ENODEV {
		t.Errorf("no device is said as %v", got)
	}
}

// FuzzParse reads whatever may come as an answer about classes, filters, links and rules.
func FuzzParse(f *testing.F) {
	of := Rate{Average: 1000, Peak: 5 << 32}.class(rootClass, true)
	for _, m := range [][]byte{
		newClass(3, 2, of), newFilter(3, 9, "\x52\x54\x00\x00\x00\x02"), newIFB(3)[1], newForward(3, "vnet0", 4)[5], newForward(3, "vnet0", 4)[4],
	} {
		f.Add(m[unix.NLMSG_HDRLEN:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if minor, c, ok := parseClass(body); ok {
			_ = tree{classes: map[uint16]class{minor: c}}.String()
		}
		if minor, mac, ok := parseFilter(body); ok && (minor == 0 || len(mac) != 6) {
			t.Errorf("a filter for %q leads to %d", mac, minor)
		}
		_, _, _ = parseLink(body)
		if index, ok := parseChain(body); ok && chainName(index) == "" {
			t.Error("a chain without a name")
		}
		_ = parseForward(body, 3)
	})
}

// TestWrittenIsRead has what is written of classes, filters and rules be read as it was.
func TestWrittenIsRead(t *testing.T) {
	want := Rate{Average: 1000, Peak: 5 << 32, Burst: 9999}.class(rootClass, false)
	minor, got, ok := parseClass(newClass(3, 7, want)[unix.NLMSG_HDRLEN:])
	if !ok || minor != 7 || got != want {
		t.Errorf("class %d is %+v, want %+v", minor, got, want)
	}
	const mac = "\x52\x54\x00\x01\x02\x03"
	if minor, got, ok := parseFilter(newFilter(3, 7, mac)[unix.NLMSG_HDRLEN:]); !ok || minor != 7 || got != mac {
		t.Errorf("the filter of class %d is for %q, want %q", minor, got, mac)
	}
	rule := newForward(3, "vnet0", 4)[5][unix.NLMSG_HDRLEN:]
	if to := parseForward(rule, 3); to != 4 {
		t.Errorf("the rule forwards to %d, want 4", to)
	}
	if to := parseForward(rule, 5); to != 0 {
		t.Errorf("the rule of device 3 is said to be that of device 5, to %d", to)
	}
}
