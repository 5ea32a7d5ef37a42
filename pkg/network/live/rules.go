package live

import (
	"context"
	"sync"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// ruleset is the rules of one network. Its methods may be called concurrently.
type ruleset struct {
	firewall env.Rules

	mu         sync.Mutex // guards what follows, and orders what the firewall is told
	redirected bool       // DNS serves the other port
}

// set makes the rules of live what they should be.
func (r *ruleset) set(ctx context.Context, live *netdef.Network) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.setLocked(ctx, live)
}

// setLocked is set for who holds r.mu.
func (r *ruleset) setLocked(ctx context.Context, live *netdef.Network) error {
	fw := translate.Firewall(live)
	if r.redirected {
		fw.DNS = translate.OtherDNS(live)
	}
	return r.firewall.Set(ctx, fw)
}

// adopt tells the firewall of the rules that may stand for live.
func (r *ruleset) adopt(live *netdef.Network) {
	fw := translate.Firewall(live)
	r.firewall.Adopt(fw)
	if translate.Redirectable(live) && translate.ServesDNS(live) {
		fw.DNS = translate.OtherDNS(live)
		r.firewall.Adopt(fw)
	}
}

// remove removes the rules of live.
func (r *ruleset) remove(ctx context.Context, live *netdef.Network) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.redirected = false
	r.adopt(live)
	return r.firewall.Delete(ctx, translate.Firewall(live))
}

// redirect leads guests' queries to the other port of live's server, or no
// longer.
func (r *ruleset) redirect(ctx context.Context, live *netdef.Network, redirected bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.redirected
	if was == redirected {
		return nil
	}
	r.redirected = redirected
	err := r.setLocked(ctx, live)
	if err != nil {
		r.redirected = was
	}
	return err
}
