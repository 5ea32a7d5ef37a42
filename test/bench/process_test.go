package main

import (
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const stat = "42 (a (strange) one) S 1 42 42 0 -1 4194560 900 0 0 0 3 4 20 100 20 0 1 0 77 1000 200 18446744073709551615\n"
	comm, cpu, user, err := parseStat(stat)
	if comm != "a (strange) one" || cpu != 1270*time.Millisecond || user != 230*time.Millisecond || err != nil {
		t.Errorf("read as %q, %v, %v, %v", comm, cpu, user, err)
	}
	for _, broken := range []string{"", "42 vnetd S", "42 (vnetd) S 1 2 3", ")("} {
		if _, _, _, err := parseStat(broken); err == nil {
			t.Errorf("%q was read", broken)
		}
	}
}

func TestParsePSS(t *testing.T) {
	const rollup = "00400000-7fff7a3f3000 ---p 00000000 00:00 0 [rollup]\nRss:               15000 kB\nPss:               12800 kB\nPss_Dirty:          9000 kB\n"
	if got := parsePSS(rollup); got != 12800 {
		t.Errorf("PSS is %d KiB, want 12800", got)
	}
}

func TestUsageOfNothing(t *testing.T) {
	if u, err := usageOf("no such program"); u != (usage{}) || err != nil {
		t.Errorf("usage is %+v, %v", u, err)
	}
}
