package live

import (
	"bytes"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// documents are what a network is and will be; nil for none.
type documents struct{ live, def *netdef.Network }

// differ reports whether an active network is not what its definition says.
func (d documents) differ() bool {
	return d.live != nil && d.def != nil && !bytes.Equal(d.live.XML(), d.def.XML())
}

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
		err = n.env.Store.SaveLive(d.live)
	} else {
		err = n.env.Store.DropLive(n.Document().UUID)
	}
	if err != nil {
		return err
	}
	n.copied = d
	return nil
}
