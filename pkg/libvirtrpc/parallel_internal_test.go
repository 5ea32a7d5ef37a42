package libvirtrpc

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// mixedFor is how long TestMixedCalls goes on: VNETD_RPC_SECONDS, or a few seconds.
func mixedFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("VNETD_RPC_SECONDS")
	if text == "" {
		return 5 * time.Second
	}
	seconds, err := strconv.Atoi(text)
	must(t, err)
	return time.Duration(seconds) * time.Second
}

// TestMixedCalls has clients do everything to the same few networks at once. Each
// call gets an answer, in libvirt's words where it can't be; and when all networks
// are gone, so is everything that was made for them.
func TestMixedCalls(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		d := startDaemon(t, t.TempDir(), nil)
		opened(t, socketPath).ok(2, nil)
		mix(t, d, mixedFor(t)/4) // has what is opened once be open
		files, routines, memory := openFiles(t), runtime.NumGoroutine(), heap()
		t.Logf("%d calls", mix(t, d, mixedFor(t)))
		nstest.Eventually(t, soon, "leaving nothing", func() error {
			f, r, m := openFiles(t), runtime.NumGoroutine(), heap()-memory
			links := strings.Count(nstest.IP(t, "-o link"), "\n")
			if f > files+5 || r > routines+10 || m > 64<<20 || links > 1 || len(d.Ports().List()) > 0 {
				return fmt.Errorf("%d files (%d before), %d goroutines (%d), %d bytes more, %d links, %d ports", f, files, r, routines, m, links, len(d.Ports().List()))
			}
			return nil
		})
	})
}

// mix has many clients call at once for so long, and ends what they left. It returns how
// many calls they made.
func mix(t *testing.T, d *daemon, length time.Duration) (made int) {
	t.Helper()
	const clients, networks = 16, 6
	end := time.Now().Add(length)
	var running sync.WaitGroup
	var mu sync.Mutex
	for range clients {
		m := &mixer{raw: opened(t, socketPath), answers: make(map[int32][2]int)}
		must(t, m.SetDeadline(end.Add(3*soon)))
		running.Go(func() {
			for time.Now().Before(end) {
				m.act(rand.IntN(networks))
			}
			m.ok(2, nil)
			_ = m.Close()
			mu.Lock()
			defer mu.Unlock()
			made += m.count()
		})
	}
	running.Wait()
	for _, n := range d.Networks() {
		if n.Info().Active {
			must(t, n.Stop(t.Context()))
		}
		if n.Info().Persistent {
			must(t, n.Undefine(t.Context()))
		}
	}
	return made
}

// mixer is a client that does one thing after the other.
type mixer struct {
	*raw
	answers map[int32][2]int // by procedure: how many were good, and how many not
}

func (m *mixer) count() (calls int) {
	for _, n := range m.answers {
		calls += n[0] + n[1]
	}
	return calls
}

// may makes a call that others may have made impossible. It returns nil then.
func (m *mixer) may(proc int32, args func(*encoder)) *decoder {
	got := m.call(proc, args)
	n := m.answers[proc]
	defer func() { m.answers[proc] = n }()
	if got.status == statusOK {
		n[0]++
		return &decoder{rest: got.payload}
	}
	n[1]++
	e := readError(got)
	known := []code{codeFailed, codeInvalidState, codeNoNetwork, codePortExists, codeNoPort, codeNoMetadata, codeInvalidArg}
	if taken := e.code == codeInternal && strings.Contains(e.text, "already"); !taken && !slices.Contains(known, e.code) {
		m.t.Errorf("procedure %d: error %d: %s", proc, e.code, e.text)
	}
	return nil
}

// act does one of all things to network number i.
func (m *mixer) act(i int) {
	name := fmt.Sprintf("net%d", i)
	doc := fmt.Sprintf("<network><name>%s</name><uuid>%s</uuid><bridge name='virbr%d'/><ip address='192.0.2.%d' prefix='28'><dhcp>"+
		"<range start='192.0.2.%d' end='192.0.2.%d'/></dhcp></ip></network>", name, uuid{byte(i + 1)}, i, 16*i+1, 16*i+2, 16*i+9)
	about := func(e *encoder) { e.ref(ref{name, uuid{byte(i + 1)}}) }
	aboutFlags := func(flags ...uint32) func(*encoder) {
		return func(e *encoder) {
			about(e)
			for _, f := range flags {
				e.uint32(f)
			}
		}
	}
	port := uuid{byte(i + 1), byte(rand.IntN(4))}
	aboutPort := func(e *encoder) { about(e); e.uuid(port); e.uint32(0) }
	text := "mixed"
	actions := []func(){
		func() { m.may(41, func(e *encoder) { e.string(doc) }) },
		func() { m.may(432, func(e *encoder) { e.string(doc); e.uint32(validate) }) },
		func() { m.may(40, func(e *encoder) { e.string(doc) }) },
		func() { m.may(39, about) },
		func() { m.may(39, about) },
		func() { m.may(42, about) },
		func() { m.may(49, about) },
		func() { m.may(48, aboutFlags(uint32(rand.IntN(2)))) },
		func() { m.may(43, aboutFlags(uint32(rand.IntN(2)))) },
		func() { m.may(46, func(e *encoder) { e.string(name) }) },
		func() { m.may(283, aboutListAll) },
		func() { m.may(341, func(e *encoder) { about(e); e.flag(false); e.flag(true); e.uint32(0) }) },
		func() {
			m.may(291, func(e *encoder) {
				about(e)
				e.uint32(uint32(rand.IntN(3) + 1))
				e.uint32(4) // ip-dhcp-host
				e.int32(-1)
				e.string(fmt.Sprintf("<host mac='52:54:00:00:00:%02x' ip='192.0.2.%d'/>", rand.IntN(4), 16*i+10+rand.IntN(4)))
				e.uint32(0)
			})
		},
		func() {
			m.may(444, func(e *encoder) {
				about(e)
				e.int32(metadataTitle)
				e.optString(&text)
				e.optString(nil)
				e.optString(nil)
				e.uint32(0)
			})
		},
		func() {
			m.may(445, func(e *encoder) { about(e); e.int32(metadataTitle); e.optString(nil); e.uint32(0) })
		},
		func() {
			m.may(406, func(e *encoder) {
				about(e)
				e.string(strings.Replace(fmt.Sprintf(portDoc, port), "<group>staff</group>", "", 1))
				e.uint32(0)
			})
		},
		func() { m.may(409, aboutPort) },
		func() { m.may(410, aboutPort) },
		func() { m.may(404, func(e *encoder) { about(e); aboutListAll(e) }) },
		func() {
			if d := m.may(313, func(e *encoder) { e.int32(eventLifecycle); e.flag(false) }); d != nil {
				id := d.int32()
				m.may(45, about)
				m.ok(314, func(e *encoder) { e.int32(id) })
			}
		},
	}
	actions[rand.IntN(len(actions))]()
}

// aboutListAll asks for everything.
func aboutListAll(e *encoder) { e.flag(true); e.uint32(0) }
