package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParsePerfdhcp(t *testing.T) {
	for _, c := range []struct {
		file string
		want exchanges
	}{
		{"perfdhcp-served", exchanges{
			discover: stage{sent: 599, received: 599, average: 2303 * time.Microsecond, worst: 40996 * time.Microsecond},
			request:  stage{sent: 599, received: 599, average: 505 * time.Microsecond, worst: 29432 * time.Microsecond},
		}},
		// The only OFFER came late, no ACK came at all.
		{"perfdhcp-unanswered", exchanges{
			discover: stage{sent: 2999, received: 1, drops: 2998, average: 3018228 * time.Microsecond, worst: 3018228 * time.Microsecond},
			request:  stage{sent: 1, drops: 1},
		}},
		{"perfdhcp-ipv6", exchanges{
			discover: stage{sent: 11999, received: 10362, drops: 1637, average: 33354 * time.Microsecond, worst: 160490 * time.Microsecond},
			request:  stage{sent: 10362, received: 9588, drops: 774, average: 25511 * time.Microsecond, worst: 289317 * time.Microsecond},
		}},
	} {
		t.Run(c.file, func(t *testing.T) {
			report, err := os.ReadFile(filepath.Join("testdata", c.file))
			if err != nil {
				t.Fatal(err)
			}
			got, err := parsePerfdhcp(string(report))
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(exchanges{}, stage{})); diff != "" || err != nil {
				t.Errorf("report (-want +got), %v:\n%s", err, diff)
			}
		})
	}
}

func TestParseBrokenPerfdhcp(t *testing.T) {
	for _, report := range []string{
		"",
		"***Statistics for: DISCOVER-OFFER***\ndrops: 0\n",
		"***Statistics for: DISCOVER-OFFER***\ndrops: many\n***Statistics for: REQUEST-ACK***\n",
		"***Statistics for: DISCOVER-OFFER***\navg delay: 2 apples\n***Statistics for: REQUEST-ACK***\n",
	} {
		if got, err := parsePerfdhcp(report); err == nil {
			t.Errorf("%q was read as %+v", report, got)
		}
	}
}

func TestHeld(t *testing.T) {
	served := stage{sent: 9990, received: 9990}
	for _, c := range []struct {
		name              string
		discover, request stage
		want              bool
	}{
		{"all served", served, served, true},
		{"an OFFER is missing", stage{sent: 9990, received: 9989, drops: 1}, stage{sent: 9989, received: 9989}, false},
		{"an ACK is missing", served, stage{sent: 9990, received: 9989, drops: 1}, false},
		{"a NAK", served, stage{sent: 9990, received: 9990, rejected: 1}, false},
		{"an address given twice", served, stage{sent: 9990, received: 9990, notUnique: 1}, false},
		{"exchanges not finished", served, stage{sent: 9980, received: 9980}, false},
		{"perfdhcp too slow", stage{sent: 5000, received: 5000}, stage{sent: 5000, received: 5000}, false},
	} {
		r := rateRun{rate: 1000, period: 10 * time.Second, got: exchanges{c.discover, c.request}}
		if r.held() != c.want {
			t.Errorf("%s: held is %v, want %v", c.name, r.held(), c.want)
		}
	}
}

func TestVoid(t *testing.T) {
	lost := exchanges{discover: stage{sent: 9990, received: 9980, drops: 10}, request: stage{sent: 9980, received: 9975, drops: 5}}
	served := exchanges{discover: stage{sent: 9990, received: 9990}, request: stage{sent: 9990, received: 9990}}
	for _, c := range []struct {
		name   string
		got    exchanges
		unread int
		want   bool
	}{
		{"perfdhcp lost all", lost, 15, true},
		{"the server lost one", lost, 14, false},
		{"late answers were lost too", lost, 16, true},
		{"nothing was lost", served, 0, false},
	} {
		r := rateRun{rate: 1000, period: 10 * time.Second, got: c.got, unread: c.unread}
		if r.void() != c.want {
			t.Errorf("%s: void is %v, want %v", c.name, r.void(), c.want)
		}
	}
}

func TestParseReceiveErrors(t *testing.T) {
	const snmp = "Tcp: A RcvbufErrors\nTcp: 1 2\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\nUdp: 29776 0 161 29937 160 3\nUdpLite: InDatagrams RcvbufErrors\nUdpLite: 0 0\n"
	if n, err := parseReceiveErrors(snmp); n != 160 || err != nil {
		t.Errorf("read as %d, %v", n, err)
	}
	for _, broken := range []string{"", "Udp: 1 2\n", "Udp: RcvbufErrors\nUdp:\n", "Udp: RcvbufErrors\nUdp: x\n"} {
		if n, err := parseReceiveErrors(broken); err == nil {
			t.Errorf("%q was read as %d", broken, n)
		}
	}
}

func TestFailedShare(t *testing.T) {
	for _, c := range []struct {
		name string
		got  exchanges
		want float64
	}{
		{"all served", exchanges{stage{sent: 1000, received: 1000}, stage{sent: 1000, received: 1000}}, 0},
		{"a lost OFFER, a lost ACK, a NAK, an address twice", exchanges{
			discover: stage{sent: 1000, received: 999, drops: 1},
			request:  stage{sent: 999, received: 998, drops: 1, rejected: 1, notUnique: 1},
		}, 0.004},
		{"no exchange began", exchanges{}, 1},
	} {
		if got := c.got.failed(); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
