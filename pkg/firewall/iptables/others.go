package iptables

import (
	"context"
	"errors"
	"slices"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose"
)

// Conditions is firewall.Writer's.
func (w *Writer) Conditions(ctx context.Context, networks []firewall.Network) ([]firewall.Condition, error) {
	w.mu.Lock()
	tracked := w.tracked()
	w.cache.refresh()
	foreign := w.cache.foreign
	tools := w.present(ctx)
	w.mu.Unlock()
	if !tracked || legacyFilters() {
		foreign = 0
	}
	var found []firewall.Condition
	var needed []tool
	for _, t := range tools {
		switch {
		case t.missing != nil:
			found = append(found, t.absence(w.options, networks)...)
		case diagnose.Concerned(t.family, networks):
			needed = append(needed, t)
		}
	}
	others, err := w.snapshots.patiently(ctx, foreign, needed, w.options, networks)
	if errors.Is(err, firewall.ErrChanging) {
		return nil, err
	}
	return slices.Concat(found, ofSettings(needed, networks), others), err
}

// present are the families' programs as they are now; those that were not
// installed are looked for again. The caller holds mu.
func (w *Writer) present(ctx context.Context) []tool {
	var out []tool
	for _, t := range w.tools {
		if t.appeared() {
			t.detect(ctx)
		}
		out = append(out, *t)
	}
	return out
}

// RemoveLeftovers removes the rules that a libvirtd with the nftables backend left
// for n's bridge. libvirt's tables, chains and the rules of other networks stay.
func (w *Writer) RemoveLeftovers(ctx context.Context, n firewall.Network) error {
	removed, err := removeLibvirtsTables(ctx, n)
	if removed > 0 {
		w.log.Info("rules of libvirt's nftables backend removed", "bridge", n.Bridge, "rules", removed)
	}
	return err
}
