package clustertest

import "testing"

func TestConform(t *testing.T) {
	s := New()
	Conform(t, Target{Store: s, Compact: func(revision int64) error { s.Compact(revision); return nil }, Expire: s.Expire})
}
