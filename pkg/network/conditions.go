package network

import (
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
)

// Conditions lists what is amiss, the worst first, as Watch found it within the
// last seconds.
func (m *Manager) Conditions() []api.Condition { return m.health.Conditions() }

// Conditions lists those that concern the network.
func (n *Network) Conditions() []api.Condition {
	return slices.DeleteFunc(n.m.Conditions(), func(c api.Condition) bool { return !slices.Contains(c.Networks, n.name) })
}

// conditionsChanged tells subscribers, also of what is known of the networks
// concerned.
func (m *Manager) conditionsChanged(concerned []string) {
	m.events.publish(Event{Kind: ConditionsChanged})
	for _, name := range concerned {
		if n := m.find(name); n != nil {
			n.changed()
		}
	}
}
