package service

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// TestLeaseLine is the line of a lease as a person reads it.
func TestLeaseLine(t *testing.T) {
	var out bytes.Buffer
	newLeaseLog(slog.New(slog.NewTextHandler(&out, nil)).With("network", "lab")).write(dhcpd.Event{Kind: dhcpd.Bound, Lease: dhcpd.Lease{
		Addr: netip.MustParseAddr("192.0.2.5"), MAC: net.HardwareAddr{0x52, 0x54, 0, 0xab, 0, 1}, Hostname: "web",
	}})
	const want = `msg="lease bound" network=lab ip=192.0.2.5 mac=52:54:00:ab:00:01 hostname=web`
	if line := strings.TrimSpace(out.String()); !strings.HasSuffix(line, want) {
		t.Errorf("the line is %q, want %q", line, want)
	}
}

func TestPaceOfLines(t *testing.T) {
	p := newLeaseLog(nil)
	now := time.Now()
	passed := 0
	for range 5000 {
		if _, ok := p.allow(now); ok {
			passed++
		}
	}
	left, ok := p.allow(now.Add(time.Second))
	if passed != lineBurst || !ok || left != 5000-lineBurst {
		t.Errorf("%d lines passed, then %v after %d", passed, ok, left)
	}
}
