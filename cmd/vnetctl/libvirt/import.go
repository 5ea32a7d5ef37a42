package libvirt

import (
	"context"
	"errors"
	"fmt"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// Importer takes over the networks of a libvirt that ran on this host.
type Importer struct {
	Root   string // before the path of every file; empty: the host's own
	Daemon *client.Client
	DryRun bool // says what would be done, and touches nothing
}

// Report is what became of the networks of a libvirt, or would.
type Report struct {
	Driver   string // the process that runs libvirt's network driver; empty: none does
	DryRun   bool
	Networks []Imported
}

// Imported is what became of one network, in JSON without the error.
type Imported struct {
	File string `json:"file"`
	api.Taken
	Dnsmasq int   `json:"dnsmasq"` // the process that was ended, or would be; 0: none runs
	Err     error `json:"-"`       // why it is not taken over; nil: it is
}

// DriverErr is why nothing can be taken over while libvirt's network driver runs; nil
// when it does not.
func (r Report) DriverErr() error {
	if r.Driver == "" {
		return nil
	}
	return &client.Error{Kind: api.Conflict, Message: "libvirt's network driver runs (" + r.Driver + "): " +
		"stop libvirtd or virtnetworkd with its sockets first, guests and networks stay up meanwhile"}
}

// Import takes over every network. One that can't be taken over keeps no other from
// it; the error is that vnetd denies it, or that libvirt's files can't be read.
func (i Importer) Import(ctx context.Context) (Report, error) {
	r := Report{DryRun: i.DryRun}
	networks, err := i.files().networks()
	if err != nil {
		return r, fmt.Errorf("reading libvirt's networks: %w", err)
	}
	if r.Driver, err = i.files().driver(); err != nil {
		return r, fmt.Errorf("looking for libvirt's network driver: %w", err)
	}
	if r.Driver != "" && !i.DryRun {
		return r, r.DriverErr()
	}
	for _, n := range networks {
		v := Imported{File: n.file, Taken: api.Taken{Name: n.name, Ports: []api.TakenPort{}, Refused: []string{}}}
		if v.Err = i.one(ctx, n, &v); errors.Is(v.Err, api.Denied) || ctx.Err() != nil && v.Err != nil {
			return r, fmt.Errorf("%s: %w", n.file, v.Err)
		}
		r.Networks = append(r.Networks, v)
	}
	if !i.DryRun {
		err = i.Daemon.SetImported(ctx)
	}
	return r, err
}

func (i Importer) files() files { return files(i.Root) }

// one takes over one network. libvirt's dnsmasq ends once it is known that nothing
// is in the way, and what it gave to guests is read after that.
func (i Importer) one(ctx context.Context, n network, v *Imported) error {
	plan, err := i.Daemon.TakeOver(ctx, n.Takeover, true)
	if err != nil {
		return err
	}
	// Once more with the leases: they too may be damaged.
	if n.Leases, err = i.files().leases(plan); err == nil {
		plan, err = i.Daemon.TakeOver(ctx, n.Takeover, true)
	}
	if err != nil {
		return err
	}
	v.Taken = plan
	server, err := i.files().orphan(n.name)
	if err != nil {
		return err
	}
	defer server.close()
	if v.Dnsmasq = server.process(); i.DryRun {
		return nil
	}
	if driver, err := i.files().driver(); err != nil {
		return err
	} else if driver != "" { // it was started since
		return Report{Driver: driver}.DriverErr()
	}
	// From here on guests have no server until the network is vnetd's.
	if err := server.end(ctx); err != nil {
		return err
	}
	err = i.replace(context.WithoutCancel(ctx), n, v)
	if err != nil && server != nil {
		return fmt.Errorf("%w (guests are without DHCP and DNS: libvirt's dnsmasq is ended, and starts again with libvirt)", err)
	}
	return err
}

// replace makes the network vnetd's, with what its guests had last, and takes from
// libvirt by what it would have it.
func (i Importer) replace(ctx context.Context, n network, v *Imported) (err error) {
	if n.Leases, err = i.files().leases(v.Taken); err != nil {
		return err
	}
	if v.Taken, err = i.Daemon.TakeOver(ctx, n.Takeover, false); err != nil {
		return err
	}
	if err := i.files().retire(n); err != nil {
		v.Refused = append(v.Refused, "libvirt's own files: "+err.Error())
	}
	return nil
}
