package live

// keepCopy keeps a copy of what the network is beside its run-state while its
// definition says otherwise, and none else: where run-state and that are lost, the
// network is taken for what its definition says. What fails is tried again, and logged,
// by KeepRecord.
func (n turn) keepCopy(d documents) error {
	if n.copied == d {
		return nil
	}
	var err error
	if d.differ() {
		err = n.env.Store.Copies().Save(d.live)
	} else {
		err = n.env.Store.Copies().Drop(n.Document().UUID)
	}
	if err != nil {
		return err
	}
	n.copied = d
	return nil
}
