package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// portView is a port in JSON.
type portView struct {
	UUID      string   `json:"uuid"`
	Network   string   `json:"network"`
	Name      string   `json:"name"`
	MAC       string   `json:"mac"`
	IfName    string   `json:"ifname"`
	Bridge    string   `json:"bridge"`
	MTU       int      `json:"mtu"`
	Addresses []string `json:"addresses"`
	Lifetime  string   `json:"lifetime"`
	OwnerUID  uint32   `json:"owner_uid"`
	Reserved  []string `json:"reserved"`
	Queues    int      `json:"queues"`
	Isolated  bool     `json:"isolated"`
	ID        string   `json:"id"`
	OwnerUUID string   `json:"owner_uuid"`
}

// newPortView returns the view of p.
func newPortView(p client.PortInfo) portView {
	view := portView{
		UUID: p.UUID, Network: p.Network, Name: p.Name, MAC: p.MAC.String(), IfName: p.IfName,
		Bridge: p.Bridge, MTU: p.MTU, Addresses: []string{}, Lifetime: string(p.Lifetime), OwnerUID: p.Owner,
		Reserved: []string{}, Queues: p.Queues, Isolated: p.Isolated, ID: p.ID, OwnerUUID: p.OwnerUUID,
	}
	for _, addr := range p.Addresses {
		view.Addresses = append(view.Addresses, addr.String())
	}
	for _, addr := range p.Reserved {
		view.Reserved = append(view.Reserved, addr.String())
	}
	return view
}

func (a *app) portCommand() *cobra.Command {
	return group("port", "Manage the ports of guests",
		a.portCreateCommand(), a.portListCommand(), a.portShowCommand(), a.portDeleteCommand())
}

// portFlags are the flags of port create as typed.
type portFlags struct {
	client.PortOptions
	mac       string
	addresses []string
	lifetime  string
	owner     string
}

func (a *app) portCreateCommand() *cobra.Command {
	var flags portFlags
	cmd := a.command("create NET [flags]", "Make a port and hold it until interrupted, or one that stays", 1, 1,
		func(ctx context.Context, d daemon, args []string) error {
			if flags.Lifetime == api.LifetimePersistent {
				return a.leavePort(ctx, d, args[0], flags.PortOptions)
			}
			return a.holdPort(ctx, d, args[0], flags.PortOptions)
		})
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := flags.parse(); err != nil {
			return newUsageError(cmd, err.Error())
		}
		return nil
	}
	set := cmd.Flags()
	set.StringVar(&flags.Name, "name", "", "the guest's host name")
	set.StringVar(&flags.mac, "mac", "", "the guest's MAC address")
	set.StringVar(&flags.IfName, "ifname", "", "the name of the TAP device")
	set.StringSliceVar(&flags.addresses, "address", nil, "an address reserved for the port; may be repeated")
	set.IntVar(&flags.Queues, "queues", 1, "the number of queues")
	set.BoolVar(&flags.VnetHdr, "vnet-hdr", false, "carry virtio-net headers")
	set.BoolVar(&flags.Isolated, "isolated", false, "keep the port from other isolated ports")
	set.StringVar(&flags.ID, "id", "", "get the same port for the same id again")
	set.StringVar(&flags.lifetime, "lifetime", string(api.LifetimeFD), "fd or bus: until interrupted; persistent: until deleted")
	set.StringVar(&flags.owner, "owner", "", "the user whose port it is, who may open its device, by name or number")
	set.StringVar(&flags.OwnerUUID, "owner-uuid", "", "the UUID of the virtual machine")
	return cmd
}

// parse fills the options that have a syntax of their own.
func (f *portFlags) parse() (err error) {
	if f.Queues < 1 {
		return fmt.Errorf("--queues %d is less than one", f.Queues)
	}
	if f.mac != "" {
		if f.MAC, err = net.ParseMAC(f.mac); err != nil || len(f.MAC) != 6 {
			return fmt.Errorf("--mac %q is not a MAC address", f.mac)
		}
	}
	f.Lifetime = api.Lifetime(f.lifetime)
	if !slices.Contains([]api.Lifetime{api.LifetimeFD, api.LifetimeBus, api.LifetimePersistent}, f.Lifetime) {
		return fmt.Errorf("--lifetime %q: want fd, bus or persistent", f.lifetime)
	}
	if f.owner != "" {
		if f.Owner, err = userID(f.owner); err != nil {
			return fmt.Errorf("--owner %q: %w", f.owner, err)
		}
	}
	for _, text := range f.addresses {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("--address %q is not an address", text)
		}
		f.Addresses = append(f.Addresses, addr)
	}
	return nil
}

// userID is the id of a user, by name or number.
func userID(text string) (*uint32, error) {
	if u, err := user.Lookup(text); err == nil {
		text = u.Uid
	}
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return nil, errors.New("there is no such user")
	}
	uid := uint32(id)
	return &uid, nil
}

// leavePort makes a port that stays, and prints it.
func (a *app) leavePort(ctx context.Context, d daemon, network string, opts client.PortOptions) error {
	port, err := d.RequestPort(ctx, network, opts)
	if err != nil {
		return err
	}
	// Closed at once: nobody else can open a queue that we have.
	if err := port.Close(); err != nil {
		return err
	}
	info, err := d.Port(ctx, port.Info.UUID)
	if err != nil {
		return err
	}
	return a.printPort(info)
}

// holdPort makes a port, prints it, and holds its files open until ctx ends.
func (a *app) holdPort(ctx context.Context, d daemon, network string, opts client.PortOptions) (err error) {
	port, err := d.RequestPort(ctx, network, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, port.Close()) }()
	info, err := d.Port(ctx, port.Info.UUID)
	if err != nil {
		return err
	}
	if err := a.printPort(info); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(a.stderr, "vnetctl: holding port %s until interrupted\n", info.IfName); err != nil {
		return err
	}
	return awaitEnd(client.NoStart(ctx), d, port.Info.UUID)
}

// watchPause is the time between two looks at a port that is held.
const watchPause = time.Second

// awaitEnd returns when ctx ends, or with an error when somebody else took the
// port away.
func awaitEnd(ctx context.Context, d daemon, uuid string) error {
	ticks := time.NewTicker(watchPause)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		// Other errors pass: a vnetd that is restarted keeps the port.
		if _, err := d.Port(ctx, uuid); errors.Is(err, client.ErrNotFound) {
			return fmt.Errorf("the port was taken away: %w", err)
		}
	}
}

// printPort prints one port.
func (a *app) printPort(p client.PortInfo) error {
	view := newPortView(p)
	if a.json {
		return a.printJSON(view)
	}
	return a.printFields([]field{
		{"uuid", view.UUID},
		{"network", view.Network},
		{"name", view.Name},
		{"ifname", view.IfName},
		{"mac", view.MAC},
		{"bridge", view.Bridge},
		{"mtu", strconv.Itoa(view.MTU)},
		{"addresses", strings.Join(view.Addresses, ", ")},
		{"reserved", strings.Join(view.Reserved, ", ")},
		{"queues", strconv.Itoa(view.Queues)},
		{"isolated", yesNo(view.Isolated)},
		{"id", view.ID},
		{"lifetime", view.Lifetime},
		{"owner_uid", strconv.FormatUint(uint64(view.OwnerUID), 10)},
		{"owner_uuid", view.OwnerUUID},
	})
}

func (a *app) portListCommand() *cobra.Command {
	return a.command("list [NET]", "List the ports of a network, or of all", 0, 1,
		func(ctx context.Context, d daemon, args []string) error {
			ports, err := findPorts(ctx, d, argument(args))
			if err != nil {
				return err
			}
			views := make([]portView, 0, len(ports))
			rows := make([][]string, 0, len(ports))
			for _, port := range ports {
				v := newPortView(port)
				views = append(views, v)
				rows = append(rows, []string{
					v.UUID, v.Network, v.IfName, v.MAC, v.Name, strings.Join(v.Addresses, ","), v.Lifetime,
				})
			}
			if a.json {
				return a.printJSON(views)
			}
			return a.printTable("UUID NETWORK IFNAME MAC NAME ADDRESSES LIFETIME", rows)
		})
}

// findPorts returns the ports of one network, or all if name is empty.
func findPorts(ctx context.Context, d daemon, name string) ([]client.PortInfo, error) {
	ports, err := d.Ports(ctx)
	if err != nil || name == "" {
		return ports, err
	}
	network, err := d.Network(ctx, name)
	if err != nil {
		return nil, err
	}
	var found []client.PortInfo
	for _, port := range ports {
		if port.Network == network.Name {
			found = append(found, port)
		}
	}
	return found, nil
}

func (a *app) portShowCommand() *cobra.Command {
	return a.command("show ID", "Print a port, by its UUID or device name", 1, 1,
		func(ctx context.Context, d daemon, args []string) error {
			port, err := findPort(ctx, d, args[0])
			if err != nil {
				return err
			}
			return a.printPort(port)
		})
}

func (a *app) portDeleteCommand() *cobra.Command {
	return a.command("delete ID", "Take a port away, by its UUID or device name", 1, 1,
		func(ctx context.Context, d daemon, args []string) error {
			port, err := findPort(ctx, d, args[0])
			if err != nil {
				return err
			}
			return d.Release(ctx, port.UUID)
		})
}

// findPort returns the port with the UUID or the device name.
func findPort(ctx context.Context, d daemon, id string) (client.PortInfo, error) {
	ports, err := d.Ports(ctx)
	if err != nil {
		return client.PortInfo{}, err
	}
	for _, port := range ports {
		if port.UUID == id || port.IfName == id {
			return port, nil
		}
	}
	return client.PortInfo{}, &client.Error{
		Kind: client.ErrNotFound, Message: fmt.Sprintf("no port has the UUID or device name %q", id),
	}
}
