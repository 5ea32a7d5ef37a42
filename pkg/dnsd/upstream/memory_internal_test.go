package upstream

import (
	"net/netip"
	"testing"
	"time"
)

// TestMemory: what was learnt is forgotten after an hour, that TCP fails later the more
// often it was seen, and all but that where the server does not answer.
func TestMemory(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := &Server{addr: netip.MustParseAddrPort("192.0.2.1:53")}
	s.letters.learn(Lost, now, memory)
	s.edns.confirm(Works, now)
	for _, c := range []struct {
		after           time.Duration
		tcpFails        bool
		letters, e, tcp Verdict
	}{
		{0, true, Lost, Works, Fails},
		{memoryTCP, false, Lost, Works, Fails},
		{memoryTCP + 1, true, Lost, Works, Fails},
		{3 * memoryTCP, true, Lost, Works, Fails},
		{memory + 1, false, Unknown, Unknown, Fails},
		{7*memoryTCP + 1, false, Unknown, Unknown, Unknown},
	} {
		at := now.Add(c.after)
		if c.tcpFails {
			s.noteTCP(false, at)
		}
		if l, e, tcp := s.letters.verdict(at), s.edns.verdict(at), s.tcp.verdict(at); l != c.letters || e != c.e || tcp != c.tcp {
			t.Errorf("after %v: case %s, edns %s, tcp %s", c.after, l, e, tcp)
		}
	}
	if s.edns.doubt(now.Add(memory + 1)) {
		t.Error("what is forgotten is doubted")
	}
	for _, at := range []time.Time{now, now.Add(memoryLeft / 2)} {
		if !s.edns.doubt(at) || s.edns.verdict(now.Add(memoryLeft)) != Works || s.edns.verdict(now.Add(memoryLeft+1)) != Unknown {
			t.Error("what is doubted is not forgotten in its time")
		}
	}
	s.succeeded(now, now.Add(-time.Second))
	if _, rtt := s.health(now.Add(memory)); rtt != time.Second {
		t.Error(rtt)
	}
	if _, rtt := s.health(now.Add(memory + 1)); rtt != 0 {
		t.Error(rtt)
	}
	s.noteTCP(true, now)
	s.letters.confirm(Kept, now)
	s.failed(now, now)
	if l, tcp := s.letters.verdict(now), s.tcp.verdict(now); l != Unknown || tcp != Works {
		t.Errorf("when it does not answer: case %s, tcp %s", l, tcp)
	}
}

// TestTryingTCP: one question finds out whether a server can be asked over TCP while the
// others wait, or another one where that gives up; where it fails it is tried again later.
func TestTryingTCP(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := &Server{addr: netip.MustParseAddrPort("192.0.2.1:53")}
	told := func(news <-chan struct{}) bool {
		select {
		case <-news:
			return true
		default:
			return news == nil
		}
	}
	if try, _ := s.tryTCP(now); !try {
		t.Error("the first does not try")
	}
	try, news := s.tryTCP(now)
	if s.leaveTCP(); try || !told(news) {
		t.Error("the second tries too, or is not told that the first gave up")
	}
	if try, _ := s.tryTCP(now); !try {
		t.Error("the second does not try after the first")
	}
	_, news = s.tryTCP(now)
	if s.noteTCP(false, now); !told(news) {
		t.Error("the third is not told")
	}
	if try, news := s.tryTCP(now); try || news != nil {
		t.Error("TCP is not known to fail")
	}
	if s.dueTCP(now.Add(againTCP - 1)) {
		t.Error("it is tried again too early")
	}
	if !s.dueTCP(now.Add(againTCP)) || s.dueTCP(now.Add(againTCP)) {
		t.Error("it is not tried again, or twice at a time")
	}
	s.noteTCP(true, now.Add(againTCP))
	if try, _ := s.tryTCP(now.Add(againTCP)); !try {
		t.Error("that TCP works again is not known")
	}
}
