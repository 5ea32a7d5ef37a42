package clienttest

import (
	"slices"

	"github.com/godbus/dbus/v5"
)

// Condition is one of the host's conditions, in the words of the API.
type Condition struct {
	Kind     string   `json:"kind"`
	Severity string   `json:"severity"`
	Networks []string `json:"networks"`
	Message  string   `json:"message"`
	Evidence string   `json:"evidence"`
	Remedy   string   `json:"remedy"`
	Since    string   `json:"since"` // RFC 3339
}

// SetConditions says what is amiss.
func (s *Server) SetConditions(conditions ...Condition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conditions = conditions
}

// concerning are those of all that concern the network; with an empty name, all.
func concerning(all []Condition, name string) []Condition {
	return slices.DeleteFunc(append([]Condition{}, all...), func(c Condition) bool {
		return name != "" && !slices.Contains(c.Networks, name)
	})
}

// busConditions are conditions as they go over the bus.
func busConditions(all []Condition) dbus.Variant {
	out := make([]map[string]dbus.Variant, 0, len(all))
	for _, c := range all {
		out = append(out, map[string]dbus.Variant{
			"kind": dbus.MakeVariant(c.Kind), "severity": dbus.MakeVariant(c.Severity), "networks": dbus.MakeVariant(c.Networks),
			"message": dbus.MakeVariant(c.Message), "evidence": dbus.MakeVariant(c.Evidence), "remedy": dbus.MakeVariant(c.Remedy),
		})
	}
	return dbus.MakeVariant(out)
}
