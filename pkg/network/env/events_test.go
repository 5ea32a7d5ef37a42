package env_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network/env"
)

// informer is a network, which counts how often it is asked what it is.
type informer struct {
	name  string
	asked int
}

func (n *informer) Info() api.Network {
	n.asked++
	return api.Network{Name: n.name}
}

// TestLeasesAndOthersInOrder: leases of two networks and other events come in their order, each
// with its network, which is asked once for the leases that come one after the other.
func TestLeasesAndOthersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b env.Broker
		var heard []string
		more := 0
		published := make(chan struct{})
		cancel := b.Subscribe(func(e env.Event) {
			if e.Kind == env.NetworkDefined {
				<-published // so that all that follows is told together
				return
			}
			heard = append(heard, fmt.Sprint(e.Kind, " ", e.Network.Name, " ", e.Change, " ", e.Lease.Hostname))
			if e.More {
				more++
			}
		})
		defer cancel()
		one, two := &informer{name: "one"}, &informer{name: "two"}
		lease := func(n *informer, name string) {
			var l env.Lease
			l.Hostname = name
			b.PublishLease(n, l, "bound")
		}
		b.Publish(env.Event{Kind: env.NetworkDefined})
		synctest.Wait()
		lease(one, "a")
		lease(one, "b")
		lease(two, "c")
		b.Publish(env.Event{Kind: env.NetworkChanged, Network: api.Network{Name: "two"}})
		lease(two, "d")
		close(published)
		synctest.Wait()
		want := []string{
			"lease-changed one bound a", "lease-changed one bound b", "lease-changed two bound c", "network-changed two  ", "lease-changed two bound d",
		}
		if !slices.Equal(heard, want) || more != len(want)-1 {
			t.Errorf("heard %q, more of %d, want %q, more of all but the last", heard, more, want)
		}
		if one.asked != 1 || two.asked != 2 {
			t.Errorf("the networks are asked %d and %d times, want once for each row of leases", one.asked, two.asked)
		}
	})
}

// BenchmarkLeases is what changes of leases cost that come together, where one hears of them.
func BenchmarkLeases(b *testing.B) {
	const together = 200
	var broker env.Broker
	heard := make(chan struct{})
	b.Cleanup(broker.Subscribe(func(e env.Event) {
		if !e.More {
			heard <- struct{}{}
		}
	}))
	n, l := &informer{name: "one"}, env.Lease{Interface: "virbr0"}
	b.ReportAllocs()
	for b.Loop() {
		for range together {
			broker.PublishLease(n, l, "bound")
		}
		<-heard
	}
}
