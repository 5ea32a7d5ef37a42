package clienttest

import (
	"encoding/json"
	"net/netip"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
)

// Reach knows a few ends: nobody reaches "closed", nobody can tell of "unclear", nobody is
// called "nobody", and everything else is reached.
func (s manager) Reach(options map[string]dbus.Variant) (map[string]dbus.Variant, *dbus.Error) {
	if err := s.enter("Reach"); err != nil {
		return nil, err
	}
	var r api.Reach
	r.From.Kind, r.To.Kind = api.ReachGuest, api.ReachGuest
	r.From.Name, _ = options["from"].Value().(string)
	r.To.Name, _ = options["to"].Value().(string)
	r.Protocol, _ = options["protocol"].Value().(string)
	r.Port, _ = options["port"].Value().(uint16)
	r.From.Network, r.To.Network = "default", "lab"
	rule := api.ReachRule{Program: "iptables", Table: "filter", Chain: "LIBVIRT_FWI", Text: "-o virbr1 -j REJECT", Action: "reject", Owner: "network lab"}
	w := api.ReachWay{
		Family: "ipv4", Source: netip.MustParseAddr("192.0.2.10"), Destination: netip.MustParseAddr("198.51.100.10"), Verdict: api.ReachYes,
		Reason: r.To.Name + " receives it, and its answers come back", AnsweredBy: r.To.Name, Accepted: []api.ReachRule{}, Translations: []api.ReachTranslation{}, Remedies: []string{}, Notes: []string{},
		Steps: []api.ReachStep{
			{Kind: "port", Name: "vnet0"},
			{Kind: "bridge", Name: "virbr0", Detail: "of network default"},
			{Kind: "route", Name: "main", Detail: "to 198.51.100.10 dev virbr1"},
			{Kind: "port", Name: "vnet1", Answer: true},
		},
	}
	switch r.To.Name {
	case "nobody":
		return nil, errorf("NotFound", "no guest is known as %q", "nobody")
	case "closed":
		w.Verdict, w.Reason, w.Rule = api.ReachNo, "it is rejected by a rule of iptables (table filter, chain LIBVIRT_FWI), of network lab", &rule
		w.Remedies = []string{"vnetctl forward add lab 22:closed:22/tcp # then by this host's address"}
	case "unclear":
		queue := api.ReachRule{Program: "nft", Table: "inet ids", Chain: "forward", Text: "queue to 0", Action: "unknown"}
		w.Verdict, w.Reason, w.Rule, w.Condition = api.ReachUnknown, "it depends on what is not known here of a rule of nft (table inet ids, chain forward)", &queue, "rule-unclear"
	default:
		accept := rule
		accept.Text, accept.Action = "-d 198.51.100.0/24 -o virbr1 -j ACCEPT", "accept"
		w.Accepted = append(w.Accepted, accept)
		w.Translations = append(w.Translations, api.ReachTranslation{Kind: "dnat", From: "203.0.113.2:8080", To: "198.51.100.10:80", Rule: api.ReachRule{Owner: "forward 8080/tcp of network lab"}})
		w.Notes = append(w.Notes, "whether a program listens there is not looked at")
	}
	r.Verdict, r.Ways = w.Verdict, []api.ReachWay{w}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, errorf("Internal", "%v", err)
	}
	return map[string]dbus.Variant{
		"verdict": dbus.MakeVariant(string(r.Verdict)), "reasons": dbus.MakeVariant([]string{w.Family + ": " + w.Reason}), "json": dbus.MakeVariant(string(text)),
	}, nil
}
