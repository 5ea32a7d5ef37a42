package health_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vnetd/vnetd/pkg/network/health"
)

// TestSplit finds guests that send from another host, but for those that just move.
func TestSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		split := health.ClusterFault{Kind: "split", Subject: "52:54:00:00:00:0a"}
		c := health.Cluster{Name: "lab", Faults: []health.ClusterFault{split}}
		find := health.Clusters(func() []health.Cluster { return []health.Cluster{c} }).Find
		finds := func(what string, want int) {
			t.Helper()
			if found, err := find(t.Context()); err != nil || len(found) != want {
				t.Errorf("%s: %+v, %v, want %d", what, found, err, want)
			}
		}
		finds("as it begins", 0)
		time.Sleep(9 * time.Second)
		finds("as it moves", 0)
		time.Sleep(2 * time.Second)
		finds("when it lasts", 1)
		c.Faults = nil
		finds("when it is over", 0)
		c.Faults = []health.ClusterFault{split}
		finds("as it moves again", 0)
	})
}

// TestOfOneNetwork tells of what is about one network of a cluster as that network's alone.
func TestOfOneNetwork(t *testing.T) {
	c := health.Cluster{Name: "lab", Networks: []string{"apps", "web"}, Faults: []health.ClusterFault{
		{Kind: "unreadable", Subject: "/vnetd/1/lab/x"}, {Kind: "reservation", Network: "web", Subject: "10.50.0.9", Text: "it waits for host h3"},
	}}
	found, err := health.Clusters(func() []health.Cluster { return []health.Cluster{c} }).Find(t.Context())
	if err != nil || len(found) != len(c.Faults) {
		t.Fatalf("%+v, %v", found, err)
	}
	if all := found[0]; all.Kind != "cluster-unreadable" || !slices.Equal(all.Networks, c.Networks) {
		t.Errorf("of the cluster: %+v", all)
	}
	if one := found[1]; one.Kind != "cluster-reservation" || !slices.Equal(one.Networks, []string{"web"}) || one.Evidence != "10.50.0.9: it waits for host h3" {
		t.Errorf("of a network: %+v", one)
	}
}
