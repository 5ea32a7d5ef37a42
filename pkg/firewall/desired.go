package firewall

import "slices"

// Entry is what is known of one bridge's rules.
type Entry struct {
	Network Network
	Rules   []Rule // shall stand, in this order
	Former  []Rule // may stand as well, of a former process
}

// All are the rules of the entry in any form.
func (e Entry) All() []Rule {
	out := slices.Clone(e.Rules)
	for _, r := range e.Former {
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// Desired is what shall stand, the oldest network first.
type Desired []Entry

// find returns the entry of a bridge, an empty one if there is none.
func (d Desired) find(bridge string) Entry {
	if i := d.index(bridge); i >= 0 {
		return d[i]
	}
	return Entry{}
}

// index is the place of a bridge, -1 if it has none.
func (d Desired) index(bridge string) int {
	return slices.IndexFunc(d, func(e Entry) bool { return e.Network.Bridge == bridge })
}

// adopt adds what a former process may have placed for n.
func (d *Desired) adopt(n Network) {
	i := d.index(n.Bridge)
	if i < 0 {
		*d = append(*d, Entry{Network: n, Rules: n.Rules()})
		return
	}
	(*d)[i].Former = Entry{Rules: (*d)[i].Former, Former: n.Rules()}.All()
}

// set notes that exactly these rules stand for n. It becomes the newest unless
// it stood like this before.
func (d *Desired) set(n Network, rules []Rule) {
	if i := d.index(n.Bridge); i >= 0 && slices.Equal((*d)[i].Rules, rules) {
		(*d)[i] = Entry{Network: n, Rules: rules}
		return
	}
	d.forget(n.Bridge)
	*d = append(*d, Entry{Network: n, Rules: rules})
}

// forget drops a bridge.
func (d *Desired) forget(bridge string) {
	*d = slices.DeleteFunc(*d, func(e Entry) bool { return e.Network.Bridge == bridge })
}
