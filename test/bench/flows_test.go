package main

import (
	"net"
	"testing"
	"time"
)

func TestSummarize(t *testing.T) {
	const ms = time.Millisecond
	opened := func(begin, took time.Duration) flow { return flow{begin: begin, took: took} }
	lost := func(begin time.Duration) flow { return flow{begin: begin, took: flowLimit, lost: true} }
	for name, c := range map[string]struct {
		attempts []flow
		want     flows
	}{
		"none":       {nil, flows{}},
		"no loss":    {[]flow{opened(0, ms), opened(50*ms, 3*ms)}, flows{Tried: 2, Slowest: 3 * ms}},
		"one gap":    {[]flow{opened(0, ms), opened(5*ms, ms), lost(10 * ms), lost(15 * ms), opened(20*ms, ms), opened(90*ms, ms)}, flows{Tried: 6, Lost: 2, Gap: 15 * ms, Slowest: ms}},
		"longest":    {[]flow{opened(0, ms), lost(5 * ms), opened(10*ms, ms), lost(15 * ms), lost(20 * ms), opened(25*ms, ms)}, flows{Tried: 6, Lost: 3, Gap: 15 * ms, Slowest: ms}},
		"to the end": {[]flow{opened(0, ms), lost(5 * ms), lost(10 * ms)}, flows{Tried: 3, Lost: 2, Gap: 10 * ms, Slowest: ms}},
	} {
		if got := summarize(c.attempts); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestTryFlows(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	close(ended)
	if got := summarize(tryFlows(listener.Addr().String(), ended)); got.Tried == 0 || got.Lost != 0 {
		t.Errorf("with a server: %+v", got)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if got := summarize(tryFlows(listener.Addr().String(), ended)); got.Tried == 0 || got.Lost != got.Tried {
		t.Errorf("without a server: %+v", got)
	}
}
