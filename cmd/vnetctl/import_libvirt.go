package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/client"
)

// importView is what became of one network of libvirt's, in JSON.
type importView struct {
	File string `json:"file"`
	client.Taken
	Dnsmasq int    `json:"dnsmasq"` // the process that was ended, or would be; 0: none runs
	Error   string `json:"error"`   // why it is not taken over; empty: it is

	kind error // of Error
}

// importRun is one run of import-libvirt.
type importRun struct {
	*app
	d   daemon
	dry bool
}

func (a *app) importLibvirtCommand() *cobra.Command {
	var dry, pending bool
	cmd := a.command("import-libvirt [--dry-run] [--if-pending]", "Take over the networks of a libvirt that ran on this host", 0, 0,
		func(ctx context.Context, d daemon, _ []string) error {
			if pending {
				if is, err := d.ImportPending(ctx); !is || err != nil {
					return err
				}
			}
			return importRun{a, d, dry}.all(ctx)
		})
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be done and touch nothing")
	cmd.Flags().BoolVar(&pending, "if-pending", false, "only if vnetd.toml asks for it and it was never done")
	return cmd
}

// all takes over every network and prints what became of them.
func (r importRun) all(ctx context.Context) error {
	networks, err := r.host.libvirtNetworks()
	if err != nil {
		return fmt.Errorf("reading libvirt's networks: %w", err)
	}
	driver, err := r.host.libvirtDriver()
	if err != nil {
		return fmt.Errorf("looking for libvirt's network driver: %w", err)
	}
	if driver != "" && !r.dry {
		return errDriver(driver)
	}
	views := make([]importView, 0, len(networks))
	for _, n := range networks {
		v := importView{File: n.file, Taken: client.Taken{Name: n.name, Ports: []client.TakenPort{}, Refused: []string{}}}
		if err := r.one(ctx, n, &v); err != nil {
			if errors.Is(err, client.ErrDenied) || ctx.Err() != nil {
				return fmt.Errorf("%s: %w", n.file, err)
			}
			v.Error, v.kind = oneLine(err.Error()), err
		}
		views = append(views, v)
	}
	if !r.dry {
		if err := r.d.SetImported(ctx); err != nil {
			return err
		}
	}
	return r.report(views, driver)
}

// errDriver says what to do about a libvirt that runs.
func errDriver(driver string) error {
	return &client.Error{Kind: client.ErrConflict, Message: "libvirt's network driver runs (" + driver + "): " +
		"stop libvirtd or virtnetworkd with its sockets first, guests and networks stay up meanwhile"}
}

// one takes over one network. libvirt's dnsmasq ends once it is known that nothing
// is in the way, and what it gave to guests is read after that.
func (r importRun) one(ctx context.Context, n libvirtNetwork, v *importView) error {
	plan, err := r.d.TakeOver(ctx, n.Takeover, true)
	if err != nil {
		return err
	}
	// Once more with the leases: they too may be damaged.
	if n.Leases, err = r.host.libvirtLeases(plan); err == nil {
		plan, err = r.d.TakeOver(ctx, n.Takeover, true)
	}
	if err != nil {
		return err
	}
	v.Taken = plan
	server, err := r.host.orphan(n.name)
	if err != nil {
		return err
	}
	defer server.close()
	if v.Dnsmasq = server.process(); r.dry {
		return nil
	}
	if driver, err := r.host.libvirtDriver(); err != nil {
		return err
	} else if driver != "" { // it was started since
		return errDriver(driver)
	}
	// From here on guests have no server until the network is vnetd's.
	if err := server.end(ctx); err != nil {
		return err
	}
	err = r.replace(context.WithoutCancel(ctx), n, v)
	if err != nil && server != nil {
		return fmt.Errorf("%w (guests are without DHCP and DNS: libvirt's dnsmasq is ended, and starts again with libvirt)", err)
	}
	return err
}

// replace makes the network vnetd's, with what its guests had last, and takes from
// libvirt by what it would have it.
func (r importRun) replace(ctx context.Context, n libvirtNetwork, v *importView) (err error) {
	if n.Leases, err = r.host.libvirtLeases(v.Taken); err != nil {
		return err
	}
	if v.Taken, err = r.d.TakeOver(ctx, n.Takeover, false); err != nil {
		return err
	}
	if err := r.host.retire(n); err != nil {
		v.Refused = append(v.Refused, "libvirt's own files: "+err.Error())
	}
	return nil
}

// report prints what became of the networks; the error has the exit code.
func (r importRun) report(views []importView, driver string) error {
	if r.json {
		if err := r.printJSON(map[string]any{"dry_run": r.dry, "driver": driver, "networks": views}); err != nil {
			return err
		}
	} else {
		if len(views) == 0 {
			r.printf("libvirt has no networks in %s and %s\n", libvirtNetworks, libvirtRun)
		}
		for _, v := range views {
			r.printImported(v)
		}
		if driver != "" {
			r.printf("\n%s\n", r.paint(red, printable(errDriver(driver).Error())))
		}
	}
	code := exitOK
	if driver != "" {
		code = exitConflict
	}
	for _, v := range views {
		if v.kind != nil {
			code = max(code, exitCode(v.kind))
		}
	}
	if r.printErr != nil || code == exitOK {
		return r.printErr
	}
	return &exitError{code}
}

// printImported prints what became of one network.
func (r importRun) printImported(v importView) {
	if v.Error != "" {
		r.printf("%s: %s: %s\n", r.paint(bold, printable(v.File)), r.paint(red, "refused"), printable(v.Error))
		return
	}
	r.printf("%s: %s\n", r.paint(bold, printable(v.Name)), strings.Join(r.deeds(v), ", "))
	for _, p := range v.Ports {
		r.printf("  port %s of %s, %s\n", printable(p.UUID), printable(p.Owner), printable(p.MAC))
	}
	for _, why := range v.Refused {
		r.printf("  %s %s\n", r.paint(yellow, "not taken over:"), printable(why))
	}
}

// deeds are what was done with a network, or would be.
func (r importRun) deeds(v importView) []string {
	said := func(done, would string) string {
		if r.dry {
			return would
		}
		return done
	}
	list := []string{map[string]string{
		client.TakeDefine:  said("defined", "would be defined"),
		client.TakeAdopt:   said("goes on as vnetd's", "would go on as vnetd's"),
		client.TakePresent: "is vnetd's already",
	}[v.Action]}
	for _, deed := range []struct {
		there bool
		text  string
	}{
		{v.Bridge != "", "bridge " + printable(v.Bridge)},
		{v.Start, said("started", "would be started")},
		{v.Autostart, "starts with the host"},
		{len(v.Ports) > 0, fmt.Sprintf("ports: %d", len(v.Ports))},
		{v.Leases > 0 && v.Action != client.TakePresent, fmt.Sprintf("leases: %d", v.Leases)},
		{v.Dnsmasq != 0, fmt.Sprintf("libvirt's dnsmasq (process %d) %s", v.Dnsmasq, said("ended", "would end"))},
	} {
		if deed.there {
			list = append(list, deed.text)
		}
	}
	return list
}
