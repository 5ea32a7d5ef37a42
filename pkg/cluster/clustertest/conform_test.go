package clustertest

import (
	"testing"

	"github.com/vnetd/vnetd/pkg/cluster"
)

func TestConform(t *testing.T) {
	s := New()
	Conform(t, Target{
		Store:   s,
		Open:    func() cluster.Store { return s },
		Compact: func(revision int64) error { s.Compact(revision); return nil },
		Expire:  s.Expire,
	})
}
