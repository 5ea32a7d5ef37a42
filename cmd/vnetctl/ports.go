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

	"github.com/vnetd/vnetd/cmd/vnetctl/document"
	"github.com/vnetd/vnetd/cmd/vnetctl/table"
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
	Parent    string       `json:"parent"`
	Mode      string       `json:"mode"`
	HostReach bool         `json:"host_reach"`
	MTU       int          `json:"mtu"`
	Addresses []netip.Addr `json:"addresses"`
	Lifetime  api.Lifetime `json:"lifetime"`
	OwnerUID  uint32       `json:"owner_uid"`
	Reserved  []netip.Addr `json:"reserved"`
	Queues    int          `json:"queues"`
	Isolated  bool         `json:"isolated"`
	ID        string       `json:"id"`
	OwnerUUID string       `json:"owner_uuid"`

	PortGroup string            `json:"portgroup"`
	VLAN      string            `json:"vlan"`
	Rules     []string          `json:"rules"`
	Bandwidth map[string]uint64 `json:"bandwidth"`

	Guard   string            `json:"guard"`
	Stopped map[string]uint64 `json:"stopped"`
}

// newPortView returns the view of p.
func newPortView(p api.Port) portView {
	return portView{
		UUID: p.UUID, Network: p.Network, Name: p.Name, Aliases: p.Aliases, MAC: p.MAC, IfName: p.IfName, Bridge: p.Bridge, MTU: p.MTU,
		Parent: p.Parent, Mode: p.Mode, HostReach: p.HostReach,
		Addresses: p.Addresses, Lifetime: p.Lifetime, OwnerUID: p.Owner, Reserved: p.Reserved,
		Queues: p.Queues, Isolated: p.Isolated, ID: p.ID, OwnerUUID: p.OwnerUUID,
		PortGroup: p.PortGroup, VLAN: p.VLAN, Rules: p.Rules, Bandwidth: p.Bandwidth, Guard: p.Guard, Stopped: p.Stopped,
	}
}

func portCommand(a *app) *cobra.Command {
	return group("port", "Manage the ports of guests",
		portCreateCommand(a), portListCommand(a), portShowCommand(a), portSetCommand(a), portWaitCommand(a), portDeleteCommand(a))
}

// portFlags are the flags of port create as typed.
type portFlags struct {
	client.PortOptions
	mac       string
	addresses []string
	lifetime  string
	owner     string
	bandwidth []string
	forwards  []string
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
	set.StringVar(&flags.PortGroup, "portgroup", "", "the network's <portgroup> that the port is of")
	set.StringSliceVar(&flags.bandwidth, "bandwidth", nil, "a limit as DIRECTION.WHAT=NUMBER, like inbound.average=1000 in kB/s; may be repeated")
	set.StringVar(&flags.VLAN, "vlan", "", "the port's VLAN, such as 42, trunk:10,20 or trunk:10,native=20")
	set.StringArrayVar(&flags.Rules, "rule", nil, "a rule of the port's own, such as \"egress reject tcp/25\"; may be repeated")
	set.StringSliceVar(&flags.forwards, "forward", nil, "[ADDRESS:]PORT[:PORT][/PROTOCOL]: a port of the host that leads to the guest as long as the port is there; may be repeated")
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
			return fmt.Errorf("--mac %q is not a MAC address, want six octets like 52:54:00:12:34:56", f.mac)
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
	for _, text := range f.bandwidth {
		name, value, _ := strings.Cut(text, "=")
		if err := setLimit(&f.Bandwidth, name, value); err != nil {
			return fmt.Errorf("--bandwidth %w", err)
		}
	}
	for _, text := range f.forwards {
		forward, err := parseForward(text, false)
		if err != nil {
			return fmt.Errorf("--forward %w", err)
		}
		f.Forwards = append(f.Forwards, forward)
	}
	if err := document.CheckRules(f.Rules); err != nil {
		return fmt.Errorf("--rule %w", err)
	}
	for _, text := range f.addresses {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("--address %q is not an address, want one like 192.0.2.20 or 2001:db8::20", text)
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
	return a.printFields(portFields(p))
}

// countedPort is a port in JSON with what was counted of it.
type countedPort struct {
	portView
	Receive  *api.Traffic `json:"receive"` // from the guest's point of view; null: not counted
	Transmit *api.Traffic `json:"transmit"`
}

// printCounted prints one port with what was counted of it.
func printCounted(ctx context.Context, a *app, d *client.Client, p api.Port) error {
	counts, err := client.Counts(ctx, d)
	if err != nil {
		return err
	}
	view := countedPort{portView: newPortView(p)}
	for _, n := range counts.Networks {
		if i := slices.IndexFunc(n.Ports, func(c api.PortCounts) bool { return c.UUID == p.UUID }); i >= 0 {
			view.Receive, view.Transmit = &n.Ports[i].Receive, &n.Ports[i].Transmit
		}
	}
	if a.json {
		return a.printJSON(view)
	}
	return a.printFields(append(portFields(p), field{"received", trafficText(view.Receive)}, field{"sent", trafficText(view.Transmit)}))
}

// trafficText is what passed in one direction, nothing for nil.
func trafficText(t *api.Traffic) string {
	if t == nil {
		return ""
	}
	return fmt.Sprintf("%d bytes, %d packets, %d drops, %d errors", t.Bytes, t.Packets, t.Drops, t.Errors)
}

// portFields are what there is to say of a port.
func portFields(p api.Port) []field {
	return []field{
		{"uuid", p.UUID},
		{"network", p.Network},
		{"name", p.Name},
		{"aliases", strings.Join(p.Aliases, " ")},
		{"ifname", p.IfName},
		{"mac", p.MAC},
		{"bridge", p.Bridge},
		{"parent", parentText(p)},
		{"mtu", strconv.Itoa(p.MTU)},
		{"addresses", joined(p.Addresses)},
		{"reserved", joined(p.Reserved)},
		{"queues", strconv.Itoa(p.Queues)},
		{"isolated", yesNo(p.Isolated)},
		{"portgroup", p.PortGroup},
		{"vlan", p.VLAN},
		{"rules", strings.Join(p.Rules, "; ")},
		{"bandwidth", bandwidthText(p.Bandwidth)},
		{"guard", p.Guard},
		{"stopped", stoppedText(p.Stopped)},
		{"id", p.ID},
		{"lifetime", string(p.Lifetime)},
		{"owner_uid", strconv.FormatUint(uint64(p.Owner), 10)},
		{"owner_uuid", p.OwnerUUID},
	}
}

// parentText is what a port is on in place of a bridge.
func parentText(p api.Port) string {
	switch {
	case p.Parent == "":
		return ""
	case p.HostReach:
		return fmt.Sprintf("%s, %s", p.Parent, p.Mode)
	}
	return fmt.Sprintf("%s, %s: this host and the guest do not reach each other there", p.Parent, p.Mode)
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
			rows := make([][]table.Cell, 0, len(ports))
			for _, p := range ports {
				views = append(views, newPortView(p))
				rows = append(rows, texts(p.UUID, p.Network, p.IfName, p.MAC, p.Name, addressesText(p), string(p.Lifetime)))
			}
			if a.json {
				return a.printJSON(views)
			}
			return a.printTable("UUID NETWORK IFNAME MAC NAME ADDRESSES LIFETIME", "UUID LIFETIME NETWORK|MAC", rows)
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
			return printCounted(ctx, a, d, port)
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

// portSettings are the settings of port set that are no limits, by their names.
func portSettings(s *client.PortSettings) map[string]func(value string) error {
	return map[string]func(string) error{
		"portgroup": func(value string) error {
			s.PortGroup = &value
			return nil
		},
		"vlan": func(value string) error {
			s.VLAN = &value
			return nil
		},
		"rules": func(value string) error {
			rules := slices.DeleteFunc(strings.Split(value, ";"), func(s string) bool { return strings.TrimSpace(s) == "" })
			s.Rules = &rules
			return document.CheckRules(rules)
		},
		"bandwidth": func(value string) error {
			if value != "" {
				return fmt.Errorf("bandwidth=%s: want limits by their names, or nothing behind bandwidth= for those of the <portgroup>", value)
			}
			s.Bandwidth = make(map[string]uint64)
			return nil
		},
	}
}

// parsePortSettings reads KEY=VALUE of port set.
func parsePortSettings(texts []string) (s client.PortSettings, err error) {
	known := portSettings(&s)
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		switch {
		case !ok:
			err = fmt.Errorf("%q: want KEY=VALUE", text)
		case isLimit(key):
			err = setLimit(&s.Bandwidth, key, value)
		case known[key] == nil:
			err = fmt.Errorf("%q is not known: want inbound.average and other limits, or %s", key, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		default:
			err = known[key](value)
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

func portSetCommand(a *app) *cobra.Command {
	var settings client.PortSettings
	cmd := a.command("set ID KEY=VALUE...", "Change limits of a port's bandwidth, its <portgroup>, its VLAN, or its rules, at once", 2, 16,
		func(ctx context.Context, d *client.Client, args []string) error {
			port, err := findPort(ctx, d, args[0])
			if err != nil {
				return err
			}
			if err := d.Port(port.UUID).Set(ctx, settings); err != nil {
				return err
			}
			now, err := d.Port(port.UUID).Get(ctx)
			if err != nil {
				return err
			}
			return printPort(a, now)
		})
	cmd.PreRunE = func(cmd *cobra.Command, args []string) (err error) {
		if settings, err = parsePortSettings(args[1:]); err != nil {
			return newUsageError(cmd, err.Error())
		}
		return nil
	}
	return cmd
}
