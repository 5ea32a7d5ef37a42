package network

// Lock calls f while no operation on n is under way.
func (n *Network) Lock(f func()) {
	n.op.Lock()
	defer n.op.Unlock()
	f()
}
