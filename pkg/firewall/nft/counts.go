package nft

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// Counts is firewall.Writer's.
func (w *Writer) Counts(_ context.Context, n firewall.Network) (map[firewall.Rule]firewall.Count, error) {
	shares, err := w.render(n, n.Rules())
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.connect(); err != nil {
		return nil, err
	}
	all := map[firewall.Rule]firewall.Count{}
	for f, s := range shares {
		for _, part := range s.sections {
			if !part.own {
				continue
			}
			rules, err := w.socket.Rules(families[f].number, networksTable, part.name)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return nil, err
			}
			for i, r := range rules {
				if i < len(part.of) && part.of[i] != (firewall.Rule{}) {
					all[part.of[i]] = countOf(r.Expressions)
				}
			}
		}
	}
	return all, nil
}

// countOf is what the counter among a rule's expressions says.
func countOf(expressions []byte) (c firewall.Count) {
	for _, e := range netlink.Attributes(expressions) {
		if counts(e) {
			c = countIn(e)
		}
	}
	return c
}
