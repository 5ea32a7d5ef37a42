package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
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
	UUID      string       `json:"uuid"`
	Network   string       `json:"network"`
	Name      string       `json:"name"`
	Aliases   []string     `json:"aliases"`
	MAC       string       `json:"mac"`
	IfName    string       `json:"ifname"`
	Bridge    string       `json:"bridge"`
	MTU       int          `json:"mtu"`
	Addresses []netip.Addr `json:"addresses"`
	Lifetime  api.Lifetime `json:"lifetime"`
	OwnerUID  uint32       `json:"owner_uid"`
	Reserved  []netip.Addr `json:"reserved"`
	Queues    int          `json:"queues"`
	Isolated  bool         `json:"isolated"`
	ID        string       `json:"id"`
	OwnerUUID string       `json:"owner_uuid"`

	Guard   string            `json:"guard"`
	Stopped map[string]uint64 `json:"stopped"`
}

// newPortView returns the view of p.
func newPortView(p api.Port) portView {
	return portView{
		UUID: p.UUID, Network: p.Network, Name: p.Name, Aliases: p.Aliases, MAC: p.MAC, IfName: p.IfName, Bridge: p.Bridge, MTU: p.MTU,
		Addresses: p.Addresses, Lifetime: p.Lifetime, OwnerUID: p.Owner, Reserved: p.Reserved,
		Queues: p.Queues, Isolated: p.Isolated, ID: p.ID, OwnerUUID: p.OwnerUUID,
		Guard: p.Guard, Stopped: p.Stopped,
	}
}

func portCommand(a *app) *cobra.Command {
	return group("port", "Manage the ports of guests",
		portCreateCommand(a), portListCommand(a), portShowCommand(a), portWaitCommand(a), portDeleteCommand(a))
}

// portFlags are the flags of port create as typed.
type portFlags struct {
	client.PortOptions
	mac       string
	addresses []string
	lifetime  string
	owner     string
}

func portCreateCommand(a *app) *cobra.Command {
	var flags portFlags
	cmd := a.command("create NET [flags]", "Make a port and hold it until interrupted, or one that stays", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			if flags.Lifetime == api.LifetimePersistent {
				return leavePort(ctx, a, d, args[0], flags.PortOptions)
			}
			return holdPort(ctx, a, d, args[0], flags.PortOptions)
		})
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := flags.parse(); err != nil {
			return newUsageError(cmd, err.Error())
		}
		return nil
	}
	set := cmd.Flags()
	set.StringVar(&flags.Name, "name", "", "the guest's host name")
	set.StringSliceVar(&flags.Aliases, "alias", nil, "another name of the guest; may be repeated")
	set.StringVar(&flags.mac, "mac", "", "the guest's MAC address")
	set.StringVar(&flags.IfName, "ifname", "", "the name of the TAP device")
	set.StringSliceVar(&flags.addresses, "address", nil, "an address reserved for the port; may be repeated")
	set.IntVar(&flags.Queues, "queues", 1, "the number of queues")
	set.BoolVar(&flags.VnetHdr, "vnet-hdr", false, "carry virtio-net headers")
	set.BoolVar(&flags.Isolated, "isolated", false, "keep the port from other isolated ports")
	set.StringVar(&flags.Guard, "guard", "", "what the guest is kept from sending: off, gateway or strict, and behind commas KIND=LEVEL")
	set.StringSliceVar(&flags.Allow, "allow", nil, "a MAC address, IP address, prefix or vlan=N that the guest may use beside its own; may be repeated")
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
func leavePort(ctx context.Context, a *app, d *client.Client, network string, opts client.PortOptions) error {
	port, err := d.RequestPort(ctx, network, opts)
	if err != nil {
		return err
	}
	// Closed at once: nobody else can open a queue that we have.
	if err := port.Close(); err != nil {
		return err
	}
	info, err := port.Get(ctx)
	if err != nil {
		return err
	}
	return printPort(a, info)
}

// holdPort makes a port, prints it, and holds its files open until ctx ends.
func holdPort(ctx context.Context, a *app, d *client.Client, network string, opts client.PortOptions) (err error) {
	port, err := d.RequestPort(ctx, network, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, port.Close()) }()
	info, err := port.Get(ctx)
	if err != nil {
		return err
	}
	if err := printPort(a, info); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(a.stderr, "vnetctl: holding port %s until interrupted\n", info.IfName); err != nil {
		return err
	}
	return awaitEnd(ctx, port.Port)
}

// watchPause is the time between two looks at a port that is held.
const watchPause = time.Second

// awaitEnd returns when ctx ends, or with an error when somebody else took the
// port away.
func awaitEnd(ctx context.Context, p client.Port) error {
	ticks := time.NewTicker(watchPause)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		// Other errors pass: a vnetd that is restarted keeps the port.
		if _, err := p.Get(ctx); errors.Is(err, api.NotFound) {
			return fmt.Errorf("the port was taken away: %w", err)
		}
	}
}

// printPort prints one port.
func printPort(a *app, p api.Port) error {
	if a.json {
		return a.printJSON(newPortView(p))
	}
	return a.printFields([]field{
		{"uuid", p.UUID},
		{"network", p.Network},
		{"name", p.Name},
		{"aliases", strings.Join(p.Aliases, " ")},
		{"ifname", p.IfName},
		{"mac", p.MAC},
		{"bridge", p.Bridge},
		{"mtu", strconv.Itoa(p.MTU)},
		{"addresses", joined(p.Addresses)},
		{"reserved", joined(p.Reserved)},
		{"queues", strconv.Itoa(p.Queues)},
		{"isolated", yesNo(p.Isolated)},
		{"guard", p.Guard},
		{"stopped", stoppedText(p.Stopped)},
		{"id", p.ID},
		{"lifetime", string(p.Lifetime)},
		{"owner_uid", strconv.FormatUint(uint64(p.Owner), 10)},
		{"owner_uuid", p.OwnerUUID},
	})
}

// stoppedText lists what a guard has stopped, most first.
func stoppedText(stopped map[string]uint64) string {
	kinds := slices.SortedFunc(maps.Keys(stopped), func(a, b string) int {
		return cmp.Or(cmp.Compare(stopped[b], stopped[a]), strings.Compare(a, b))
	})
	for i, kind := range kinds {
		kinds[i] = fmt.Sprintf("%s %d", kind, stopped[kind])
	}
	return strings.Join(kinds, ", ")
}

func portListCommand(a *app) *cobra.Command {
	return a.command("list [NET]", "List the ports of a network, or of all", 0, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			ports, err := findPorts(ctx, d, argument(args))
			if err != nil {
				return err
			}
			views := make([]portView, 0, len(ports))
			rows := make([][]cellText, 0, len(ports))
			for _, p := range ports {
				views = append(views, newPortView(p))
				rows = append(rows, texts(p.UUID, p.Network, p.IfName, p.MAC, p.Name, addressesText(p), string(p.Lifetime)))
			}
			if a.json {
				return a.printJSON(views)
			}
			return a.printTable("UUID NETWORK IFNAME MAC NAME ADDRESSES LIFETIME", "UUID LIFETIME NETWORK", rows)
		})
}

// addressesText returns the addresses that a port's guest has, then in brackets
// those that are kept for it.
func addressesText(p api.Port) string {
	var texts []string
	for _, addr := range p.Addresses {
		texts = append(texts, addr.String())
	}
	for _, addr := range p.Reserved {
		if !slices.Contains(p.Addresses, addr) {
			texts = append(texts, "("+addr.String()+")")
		}
	}
	return strings.Join(texts, ",")
}

func portShowCommand(a *app) *cobra.Command {
	return a.command("show ID", "Print a port, by its UUID, its device or its guest's name", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			port, err := findPort(ctx, d, args[0])
			if err != nil {
				return err
			}
			return printPort(a, port)
		})
}

func portWaitCommand(a *app) *cobra.Command {
	var atMost time.Duration
	cmd := a.command("wait ID [--for DURATION]", "Wait until the guest of a port has an address, and print its addresses", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			port, err := findPort(ctx, d, args[0])
			if err != nil {
				return err
			}
			soon, cancel := context.WithTimeout(ctx, atMost)
			defer cancel()
			addrs, err := d.Port(port.UUID).WaitForAddress(soon)
			switch {
			case ctx.Err() == nil && soon.Err() != nil:
				return fmt.Errorf("the guest of port %s has no address after %v", quote(port.IfName), atMost)
			case err != nil:
				return err
			case a.json:
				return a.printJSON(map[string][]netip.Addr{"addresses": addrs})
			}
			for _, addr := range addrs {
				a.printf("%v\n", addr)
			}
			return a.err
		})
	cmd.Flags().DurationVar(&atMost, "for", time.Minute, "wait at most so long")
	return cmd
}

func portDeleteCommand(a *app) *cobra.Command {
	return a.command("delete ID", "Take a port away, by its UUID, its device or its guest's name", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			port, err := findPort(ctx, d, args[0])
			if err != nil {
				return err
			}
			return d.Port(port.UUID).Release(ctx)
		})
}
