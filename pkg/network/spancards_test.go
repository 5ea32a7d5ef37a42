package network_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/clustertest"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/member"
)

// forgetful is a disk of a host of a cluster that keeps nothing.
type forgetful struct{}

func (forgetful) Save(cluster.Saving) error { return nil }

// clusterHost is a host of the cluster lab, at work until the test ends.
func clusterHost(t *testing.T, s cluster.Store, name, underlay string, doc *netdef.Network, cards ...member.Card) *member.Clusters {
	t.Helper()
	at := netip.MustParseAddr(underlay)
	m := cluster.New(cluster.Config{Cluster: "lab", Host: name, Boot: name, Underlay: at, MTU: 1500, Version: "test", Rand: rand.New(rand.NewPCG(1, uint64(len(underlay))))})
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	c := &member.Cluster{
		Name: "lab", Host: name, Underlay: at, Port: 4789, Version: "test", Member: m,
		Runner: &cluster.Runner{Member: m, Store: s, Disk: forgetful{}, TTL: 15 * time.Second, Logger: log},
	}
	all := member.New([]*member.Cluster{c}, log)
	for _, err := range c.SetNetworks(func() []*netdef.Network { return []*netdef.Network{doc} }) {
		t.Fatal(err)
	}
	c.SetPorts(doc.Name, cards)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return all
}

// TestSpanKnowsCardsAtOnce has a bridge know, when its network has started, that a guest of
// another host is behind the tunnel: nothing is left to be repaired.
func TestSpanKnowsCardsAtOnce(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		text := spanXML("<vnetd:span cluster='lab' vni='7'/>")
		doc, err := netdef.Parse([]byte(text))
		must(t, err)
		s := clustertest.New()
		must(t, cluster.Init(t.Context(), s, "lab", "0b7c"))
		card := []byte{0x52, 0x54, 0, 0, 0, 9}
		clusterHost(t, s, "h2", "203.0.113.8", doc, member.Card{MAC: card, UUID: "1", Owner: "vm", Name: "web", Sends: func() bool { return true }})
		here := clusterHost(t, s, "h1", "203.0.113.2", doc)
		nstest.Eventually(t, wait, "the other host's guest is known", func() error {
			if n := len(here.Cards(doc)); n != 1 {
				return fmt.Errorf("%d cards are", n)
			}
			return nil
		})
		log := new(sealed)
		h := newHub(t, t.TempDir(), hubOptions{nftables: true, clusters: here, log: log})
		h.started(text)
		if out := nstest.Exec(t, "bridge", "fdb", "show", "dev", "vx7"); !strings.Contains(out, "52:54:00:00:00:09 sticky master one") || !strings.Contains(out, "52:54:00:00:00:09 dst 203.0.113.8") {
			t.Errorf("the card is not behind the tunnel:\n%s", out)
		}
		time.Sleep(2 * time.Second) // the audit has looked
		if strings.Contains(log.String(), "network repaired") {
			t.Error("what has just started was repaired")
		}
	})
}
