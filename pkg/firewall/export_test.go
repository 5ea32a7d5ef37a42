package firewall

// Lets reports whether a flow of a guest of from, or of another host where that is nil,
// reaches a guest of to, another host where that is nil, or this host.
func Lets(from, to *Network, host bool, f *Flow) bool {
	out, in := new(judge), new(judge)
	if from != nil {
		out.network = *from
	}
	if to != nil {
		in.network = *to
	}
	switch {
	case from != nil && out.policy().stops(Egress, f), to != nil && in.policy().stops(Ingress, f):
		return false
	case host:
		return true
	case from != nil && to != nil && in.admits(f):
		return true
	}
	return (from == nil || out.lets(Egress, f)) && (to == nil || in.lets(Ingress, f))
}
