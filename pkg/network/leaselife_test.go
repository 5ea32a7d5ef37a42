package network_test

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/store"
)

// life is a network whose definition changes at random, and what its clients were
// promised.
type life struct {
	t      *testing.T
	root   string
	h      *hub
	rng    *rand.Rand
	guests *clients
	held   map[netip.Addr]byte // the client of each lease that runs
	acks   int
	did    []string
}

// TestLeasesOverAnyLife does random things to a network, and to its clients: no
// address is leased to two, no lease is lost before it ends, and no document that
// lacks the network's UUID changes it.
func TestLeasesOverAnyLife(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				l := &life{t: t, root: t.TempDir(), rng: rand.New(rand.NewPCG(seed, 13)), held: make(map[netip.Addr]byte)}
				l.h, l.guests = newHub(t, l.root, hubOptions{unguarded: true}), newClients(t)
				for range 400 {
					l.step()
					l.check()
				}
				if l.acks < 10 {
					t.Errorf("only %d leases were given", l.acks)
				}
			})
		})
	}
}

// step does one random thing. What can't be done now is refused.
func (l *life) step() {
	ctx, n := l.t.Context(), l.network()
	note := func(what string, err error) {
		l.did = append(l.did, fmt.Sprintf("%s: %v", what, err))
	}
	switch do := l.rng.IntN(22); {
	case do < 3 || n == nil:
		xml := l.document()
		if l.rng.IntN(4) == 0 {
			_, err := l.h.Create(ctx, []byte(xml))
			note("create "+xml, err)
			return
		}
		_, err := l.h.Define(ctx, []byte(xml))
		note("define "+xml, err)
	case do < 5:
		u := l.update()
		note(fmt.Sprintf("update %v %s", u.Command, u.XML), n.Update(ctx, u, network.TargetCurrent))
	case do < 8:
		note("start", n.Start(ctx))
	case do < 9:
		note("stop", n.Stop(ctx))
	case do < 10:
		note("undefine", n.Undefine(ctx))
	case do < 11:
		l.restart()
	case do < 13:
		l.release()
	case do < 15:
		l.strange(n)
	default:
		l.lease(n)
	}
}

// strange has a client of libvirt's define or create a document of the same name
// that has another UUID, or none: it is refused, and changes nothing.
func (l *life) strange(n *network.Network) {
	uuid := []string{"", "<uuid>00000000-0000-4000-8000-00000000abcd</uuid>"}[l.rng.IntN(2)]
	xml := []byte(strings.Replace(l.document(), "<uuid>"+keptUUID+"</uuid>", uuid, 1))
	if strings.Contains(string(xml), keptUUID) {
		l.t.Fatal("the document has the network's UUID")
	}
	live, def, info := string(n.XML(false)), string(n.XML(true)), n.Info()
	var err error
	if l.rng.IntN(2) == 0 {
		_, err = l.h.Create(l.t.Context(), xml)
	} else {
		_, err = l.h.DefineWith(l.t.Context(), xml, api.DefineOptions{Strict: true})
	}
	if network.KindOf(err) != api.Exists {
		l.fatal("a document that does not carry the network's UUID: %v", err)
	}
	if string(n.XML(false)) != live || string(n.XML(true)) != def || !reflect.DeepEqual(n.Info(), info) {
		l.fatal("a document that does not carry the network's UUID has changed it")
	}
}

// network is the network, nil when there is none.
func (l *life) network() *network.Network {
	n, _ := l.h.ByName("one")
	return n
}

// subnet is one of two.
func (l *life) subnet() string { return []string{"192.0.2", "198.51.100"}[l.rng.IntN(2)] }

// document is a random definition of the network.
func (l *life) document() string {
	subnet, dhcp := l.subnet(), ""
	if from := 10 + l.rng.IntN(6); l.rng.IntN(6) > 0 {
		dhcp = keptRange(subnet, from, from+l.rng.IntN(6))
	}
	for n := range byte(2) {
		if l.rng.IntN(3) == 0 {
			dhcp += fmt.Sprintf("<host mac='%s' ip='%s.%d'/>", keptMAC(n), subnet, 11+n)
		}
	}
	return keptXML(subnet, dhcp)
}

// update adds or takes away a reservation or a range.
func (l *life) update() netdef.Update {
	subnet, n := l.subnet(), byte(l.rng.IntN(4))
	u := netdef.Update{Command: netdef.CommandAddLast, Section: netdef.SectionIPDHCPHost, Index: -1}
	u.XML = fmt.Appendf(nil, "<host mac='%s' ip='%s.%d'/>", keptMAC(n), subnet, 10+l.rng.IntN(6))
	if l.rng.IntN(2) == 0 {
		u.Section, u.XML = netdef.SectionIPDHCPRange, []byte(keptRange(subnet, 10+l.rng.IntN(3), 13+l.rng.IntN(3)))
	}
	if l.rng.IntN(3) == 0 {
		u.Command = netdef.CommandDelete
	}
	return u
}

// restart has another vnetd take over, from where one left that was killed, or that
// ended in order; meanwhile one lease comes to its end.
func (l *life) restart() {
	left := filepath.Join(l.t.TempDir(), "state")
	must(l.t, os.CopyFS(left, os.DirFS(l.h.dirs.State)))
	l.h.end()
	if l.rng.IntN(2) == 0 {
		l.did = append(l.did, "kill")
		must(l.t, os.RemoveAll(l.h.dirs.State))
		must(l.t, os.Rename(left, l.h.dirs.State))
	}
	s, err := store.Open(l.h.dirs, slog.New(slog.DiscardHandler))
	must(l.t, err)
	if a, client, ok := l.one(); ok {
		over := dhcpd.Lease{Addr: a, MAC: keptMAC(client), State: dhcpd.StateBound, Expiry: time.Now().Add(-time.Second)}
		must(l.t, s.Leases(keptUUID).Commit([]dhcpd.Lease{over}, nil))
		l.did = append(l.did, fmt.Sprintf("the lease of %v ends", a))
		delete(l.held, a)
	}
	must(l.t, s.Close())
	l.h = newHub(l.t, l.root, hubOptions{unguarded: true})
}

// one is any of the leases; false when there is none.
func (l *life) one() (a netip.Addr, client byte, ok bool) {
	all := slices.SortedFunc(maps.Keys(l.held), netip.Addr.Compare)
	if len(all) == 0 {
		return a, 0, false
	}
	a = all[l.rng.IntN(len(all))]
	return a, l.held[a], true
}

// lease has a client ask for the address that it has, or for any.
func (l *life) lease(n *network.Network) {
	if xml := string(n.XML(false)); !n.Info().Active || !strings.Contains(xml, "<dhcp>") {
		return
	}
	client := byte(l.rng.IntN(5))
	a := netip.MustParseAddr(fmt.Sprintf("%s.%d", l.subnet(), 10+l.rng.IntN(6)))
	for had, holder := range l.held {
		if holder == client && l.rng.IntN(2) == 0 {
			a = had
		}
	}
	refusal := l.guests.ask(client, a)
	l.did = append(l.did, fmt.Sprintf("%d asks for %v: %q", client, a, refusal))
	if refusal != "" {
		return
	}
	l.acks++
	if holder, taken := l.held[a]; taken && holder != client {
		l.fatal("%v is leased to %d while %d has it", a, client, holder)
	}
	maps.DeleteFunc(l.held, func(_ netip.Addr, holder byte) bool { return holder == client })
	l.held[a] = client
}

// release has a client give its address up.
func (l *life) release() {
	if n := l.network(); n == nil || !n.Info().Active {
		return
	}
	if a, client, ok := l.one(); ok {
		l.did = append(l.did, fmt.Sprintf("%d gives %v up", client, a))
		l.guests.release(client, a)
		delete(l.held, a)
	}
}

// check fails the test unless each lease is listed, or, without a network, kept.
func (l *life) check() {
	l.t.Helper()
	has := make(map[netip.Addr]string)
	if n := l.network(); n != nil {
		leases, err := n.Leases()
		must(l.t, err)
		for _, lease := range leases {
			has[lease.Addr] = lease.MAC.String()
		}
	} else {
		leases, err := l.h.store.Leases(keptUUID).Load()
		must(l.t, err)
		for _, lease := range leases {
			if lease.BoundAt(time.Now()) {
				has[lease.Addr] = lease.MAC.String()
			}
		}
	}
	for a, client := range l.held {
		if has[a] != keptMAC(client).String() {
			l.fatal("the lease of %v by %d is lost, there are %v", a, client, has)
		}
	}
}

// fatal fails the test and tells how it came to that.
func (l *life) fatal(format string, args ...any) {
	l.t.Helper()
	l.t.Fatalf("%s; what was done:\n%s", fmt.Sprintf(format, args...), strings.Join(l.did, "\n"))
}
