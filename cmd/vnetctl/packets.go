package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/packets"
	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/cmd/vnetctl/trace"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// captureFlags are the flags of capture.
type captureFlags struct {
	packets.Bounds
	file string
}

func captureCommand(a *app) *cobra.Command {
	var flags captureFlags
	cmd := a.command("capture PORT|NET [FILTER...] [-w FILE] [--time DURATION] [--count N] [--size BYTES]", "Print the packets of a port or a network, or write them to a file for wireshark", 1, 1000,
		func(ctx context.Context, d *client.Client, args []string) error {
			filter := strings.Join(args[1:], " ")
			program, err := packets.Compile(ctx, filter)
			if err != nil {
				return err
			}
			heard, err := devicesOf(ctx, d, args[0])
			if err != nil {
				return err
			}
			heard.filter = filter
			return capture(ctx, a, heard, program, flags)
		})
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := flags.check(a); err != nil {
			return newUsageError(cmd, err.Error())
		}
		return nil
	}
	set := cmd.Flags()
	set.StringVarP(&flags.file, "write", "w", "", "write pcapng to `FILE`, - for standard output")
	set.IntVar(&flags.Count, "count", 10000, "end after so many packets")
	set.DurationVar(&flags.Time, "time", 10*time.Second, "end after so long")
	set.Int64Var(&flags.Size, "size", 64<<20, "end before the file has more `BYTES`")
	return cmd
}

// check checks the flags of a capture.
func (f captureFlags) check(a *app) error {
	switch {
	case f.Count < 1:
		return fmt.Errorf("--count %d is less than one packet", f.Count)
	case f.Time <= 0:
		return fmt.Errorf("--time %v is no time", f.Time)
	case f.Size < 1:
		return fmt.Errorf("--size %d is less than one byte", f.Size)
	case f.file == "-" && a.printer.width > 0:
		return errors.New("-w -: a terminal can't show pcapng; want a pipe or -w FILE")
	case f.file != "" && a.json:
		return errors.New("--json and -w exclude each other")
	}
	return nil
}

// listening is what a capture hears, and what it is called.
type listening struct {
	what    string
	filter  string
	devices []packets.Device
	names   []packets.Name
}

// devicesOf returns the device of a port, or the bridge of a network and the devices of its
// ports.
func devicesOf(ctx context.Context, d *client.Client, id string) (l listening, err error) {
	ports, err := d.Ports(ctx)
	if err != nil {
		return l, err
	}
	network, err := d.Network(id).Get(ctx)
	var heard []api.Port
	switch {
	case errors.Is(err, api.NotFound):
		port, err := findPort(ctx, d, id)
		if err != nil {
			return l, notAnyOf(err, id)
		}
		heard, l.what = []api.Port{port}, "port "+port.IfName
	case err != nil:
		return l, err
	default:
		l.what = "network " + network.Name
		heard = slices.DeleteFunc(slices.Clone(ports), func(p api.Port) bool { return p.Network != network.Name })
		if network.Bridge != "" {
			l.devices = append(l.devices, packets.Device{Name: network.Bridge, Description: "bridge of network " + network.Name})
		}
	}
	for _, p := range heard {
		if p.IfName != "" {
			l.devices = append(l.devices, packets.Device{Name: p.IfName, Description: portText(p)})
		}
	}
	if len(l.devices) == 0 {
		return l, api.Errorf(api.InvalidState, "%s has no device in this host whose packets can be heard: it is not active, or a PCI device of the guest's", l.what)
	}
	l.names = guestNames(ports)
	return l, nil
}

// notAnyOf says that id is neither a port nor a network.
func notAnyOf(err error, id string) error {
	if !errors.Is(err, api.NotFound) {
		return err
	}
	return &client.Error{Kind: api.NotFound, Message: fmt.Sprintf("%q is neither a network nor a port's UUID, device or guest", id)}
}

// portText says whose a port is.
func portText(p api.Port) string {
	return fmt.Sprintf("guest %s, %s, of network %s", cmp.Or(p.Name, "without a name"), p.MAC, p.Network)
}

// guestNames returns what the addresses of ports are called.
func guestNames(ports []api.Port) (names []packets.Name) {
	known := make(map[netip.Addr]bool)
	for _, p := range ports {
		for _, addr := range slices.Concat(p.Addresses, p.Reserved) {
			if name := cmp.Or(p.Name, p.IfName); name != "" && !known[addr] {
				known[addr] = true
				names = append(names, packets.Name{Addr: addr, Name: name})
			}
		}
	}
	return names
}

// capture prints what passes the devices, or writes it.
func capture(ctx context.Context, a *app, l listening, program packets.Filter, flags captureFlags) (err error) {
	var links []string
	for _, d := range l.devices {
		links = append(links, d.Name)
	}
	sockets, err := packets.Open(links, program)
	if err != nil {
		return err
	}
	defer sockets.Close()
	each, written, finish, err := a.sink(l, flags)
	if err != nil {
		return err
	}
	a.tell(fmt.Sprintf("capturing %s by %s: ends after %v, %d packets or %d bytes, or by Ctrl-C", l.what, strings.Join(links, ", "), flags.Time, flags.Count, flags.Size))
	outcome, err := sockets.Capture(ctx, flags.Bounds, written, each)
	if err = errors.Join(err, finish()); err != nil {
		return err
	}
	a.tell(captureText(outcome))
	return nil
}

// captureText says what became of a capture.
func captureText(o packets.Outcome) string {
	ends := map[string]string{
		packets.EndTime: "the time is over; --time has more", packets.EndCount: "the number is reached; --count has more",
		packets.EndSize: "the size is reached; --size has more", packets.EndInterrupted: "interrupted",
	}
	lost := ""
	if o.Lost > 0 {
		lost = fmt.Sprintf(", and %d came faster than they could be written: a FILTER helps", o.Lost)
	}
	return fmt.Sprintf("%d packets%s (%s)", o.Packets, lost, ends[o.End])
}

// sink is where packets go: a file of pcapng, or lines. finish is to be called at the end.
func (a *app) sink(l listening, flags captureFlags) (each func(packets.Packet) error, written func() int64, finish func() error, err error) {
	finish = func() error { return nil }
	if flags.file == "" {
		bytes := int64(0)
		return func(p packets.Packet) error {
			bytes += packets.Size(len(p.Data))
			return a.printPacket(l.devices[p.Link], p)
		}, func() int64 { return bytes }, finish, nil
	}
	out := io.Writer(a.out)
	if flags.file != "-" {
		file, err := os.OpenFile(flags.file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // it may have passwords
		if err != nil {
			return nil, nil, nil, err
		}
		out, finish = file, file.Close
	}
	f, err := packets.NewFile(out, "vnetctl "+a.version, l.what, l.filter, l.devices, l.names)
	if err != nil {
		return nil, nil, nil, errors.Join(err, finish())
	}
	return f.Packet, func() int64 { return f.Written }, finish, nil
}

// packetView is a packet in JSON, one on each line.
type packetView struct {
	Time      time.Time `json:"time"`
	Device    string    `json:"device"`
	Direction string    `json:"direction"`
	Length    int       `json:"length"`
	Text      string    `json:"text"`
}

// printPacket prints one line for a packet. Of a port, in is what the guest sends.
func (a *app) printPacket(d packets.Device, p packets.Packet) error {
	direction := "in"
	if p.Outgoing {
		direction = "out"
	}
	text := packets.Decode(p.Data).String()
	if a.json {
		return a.printLine(packetView{p.At, d.Name, direction, len(p.Data), text})
	}
	a.printf("%s %s %-3s %s\n", p.At.In(a.now().Location()).Format("15:04:05.000000"), d.Name, direction, text)
	return a.err
}

// traceCommand finds out what becomes of the packets of a port.
func traceCommand(a *app) *cobra.Command {
	var limit time.Duration
	cmd := a.command("trace PORT [PROTOCOL] [ADDRESS|GUEST][:PORT] [--time DURATION]", "Find out what drops the packets that a guest sends, or their answers", 1, 3,
		func(ctx context.Context, d *client.Client, args []string) error {
			o, err := traceOptions(ctx, d, args)
			if err != nil {
				return err
			}
			o.Time = limit
			o.Ready = func() {
				a.tell(fmt.Sprintf("watching port %s for %v at most: have the guest send now", o.Port.IfName, limit))
			}
			r, err := trace.Run(ctx, o)
			if err != nil {
				return err
			}
			return printTrace(a, r)
		})
	cmd.Flags().DurationVar(&limit, "time", 10*time.Second, "end after so long")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if limit <= 0 {
			return newUsageError(cmd, fmt.Sprintf("--time %v is no time", limit))
		}
		return nil
	}
	return cmd
}

// protocols are the names of protocols, by which the trace goes.
var protocols = map[string]byte{"icmp": packets.ICMP, "icmp6": packets.ICMPv6, "tcp": packets.TCP, "udp": packets.UDP, "sctp": 132}

// traceOptions reads what stands behind trace.
func traceOptions(ctx context.Context, d *client.Client, args []string) (o trace.Options, err error) {
	if o.Port, err = findPort(ctx, d, args[0]); err != nil {
		return o, err
	}
	if o.Port.Bridge == "" {
		return o, api.Errorf(api.Unsupported, "port %s is on %s, not on a bridge: its packets do not pass this host's rules, which trace watches; see vnetctl capture", quote(o.Port.IfName), o.Port.Parent)
	}
	if o.Guests, err = d.Ports(ctx); err != nil {
		return o, err
	}
	for _, word := range args[1:] {
		if number, known := protocols[strings.ToLower(word)]; known && o.Protocol == 0 {
			o.Protocol = number
		} else if o.To.IsValid() {
			return o, api.Errorf(api.Invalid, "%q is one more destination than can be traced", word)
		} else if o.To, o.ToPort, err = traceGoal(word, o.Guests); err != nil {
			return o, err
		}
	}
	if o.ToPort != 0 && o.Protocol == 0 {
		return o, api.Errorf(api.Invalid, "port %d of what? Name tcp, udp or sctp", o.ToPort)
	}
	uuid := o.Port.UUID
	o.Stopped = func(ctx context.Context) map[string]uint64 {
		port, err := d.Port(uuid).Get(ctx)
		if err != nil {
			return nil // the verdict goes by the rules
		}
		return port.Stopped
	}
	return o, nil
}

// traceGoal reads ADDRESS, GUEST, or either with a port.
func traceGoal(word string, ports []api.Port) (addr netip.Addr, port uint16, err error) {
	if goal, err := netip.ParseAddrPort(word); err == nil {
		return goal.Addr().Unmap(), goal.Port(), nil
	}
	if addr, err := netip.ParseAddr(word); err == nil {
		return addr.Unmap(), 0, nil
	}
	name, number, found := strings.Cut(word, ":")
	if found {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 {
			return addr, 0, api.Errorf(api.Invalid, "%q: %q is not a port", word, number)
		}
		port = uint16(n)
	}
	for _, p := range ports {
		if strings.EqualFold(p.Name, name) && len(p.Addresses) > 0 {
			return p.Addresses[0], port, nil
		}
	}
	return addr, 0, api.Errorf(api.Invalid, "%q is neither an address, nor a guest that has one, nor a protocol (icmp, icmp6, tcp, udp, sctp)", word)
}

// printTrace prints the way of packets, and what became of them on the last line.
func printTrace(a *app, r trace.Result) error {
	if a.json {
		return a.printJSON(r)
	}
	var fields []field
	for _, s := range r.Steps {
		fields = append(fields, field{s.Where, s.Text})
	}
	if err := a.printFields(fields); err != nil {
		return err
	}
	for _, text := range r.Unseen {
		a.printf("Not seen: %s\n", table.Printable(text))
	}
	shade := table.Red
	if r.Verdict.Cause == trace.Answered {
		shade = table.Green
	}
	remedy := ""
	if r.Verdict.Remedy != "" {
		remedy = ". What helps: " + r.Verdict.Remedy
	}
	a.printf("%s %s%s\n", a.paint(shade, r.Verdict.Cause+":"), table.Printable(r.Verdict.Text), table.Printable(remedy))
	return a.err
}
