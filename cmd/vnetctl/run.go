package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/cmd/vnetctl/document"
	"github.com/vnetd/vnetd/cmd/vnetctl/suggest"
	"github.com/vnetd/vnetd/pkg/client"
)

// vhostDevice gives the kernel's part of virtio-net.
const vhostDevice = "/dev/vhost-net"

// card is one port that a program is run with, as -n says it.
type card struct {
	network string
	client.PortOptions
	vhost string // on, off or auto
}

func runCommand(a *app) *cobra.Command {
	var networks []string
	cmd := &cobra.Command{
		Use:                   "run [NET] [-n NET[:OPTION=VALUE,...]]... -- PROGRAM [ARGUMENT...]",
		Short:                 "Run QEMU, or another program, with ports that end with it",
		DisableFlagsInUseLine: true,
		Args:                  cobra.ArbitraryArgs,
	}
	cmd.Flags().StringArrayVarP(&networks, "net", "n", nil, "a port of `NET`; options: queues, mac, name, alias, address, ifname, isolated, guard, portgroup, vlan, forward, rule, id, vhost, and limits like inbound.average")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dash := cmd.ArgsLenAtDash()
		if dash < 0 || dash == len(args) {
			return newUsageError(cmd, "the program to run is missing: it stands after --")
		}
		cards, err := parseCards(append(args[:dash:dash], networks...))
		if err != nil {
			return newUsageError(cmd, err.Error())
		}
		return runWith(cmd.Context(), a, cards, args[dash:])
	}
	return cmd
}

// parseCards reads what stands after each -n.
func parseCards(texts []string) ([]card, error) {
	if len(texts) == 0 {
		return nil, errors.New("a network is missing")
	}
	cards := make([]card, len(texts))
	for i, text := range texts {
		if err := cards[i].parse(text); err != nil {
			return nil, err
		}
	}
	return cards, nil
}

// parse reads NET[:option=value,…].
func (c *card) parse(text string) error {
	name, options, _ := strings.Cut(text, ":")
	if name == "" {
		return fmt.Errorf("%q names no network", text)
	}
	c.network, c.VnetHdr, c.Queues, c.vhost = name, true, 1, "auto"
	if options == "" {
		return nil
	}
	for option := range strings.SplitSeq(options, ",") {
		key, value, ok := strings.Cut(option, "=")
		if !ok && key != "isolated" {
			return fmt.Errorf("%q: want option=value", option)
		}
		if err := c.set(key, value); err != nil {
			return err
		}
	}
	return nil
}

// set sets one option.
func (c *card) set(key, value string) error {
	for name, text := range map[string]*string{"name": &c.Name, "ifname": &c.IfName, "id": &c.ID, "guard": &c.Guard, "portgroup": &c.PortGroup} {
		if key == name {
			*text = value
			return nil
		}
	}
	if isLimit(key) {
		return setLimit(&c.Bandwidth, key, value)
	}
	if key == "forward" {
		f, err := parseForward(value, false)
		if err != nil {
			return fmt.Errorf("forward=%w", err)
		}
		c.Forwards = append(c.Forwards, f)
		return nil
	}
	return c.parseOption(key, value)
}

// parseOption sets an option that has a syntax of its own.
func (c *card) parseOption(key, value string) (err error) {
	switch key {
	case "queues":
		if c.Queues, err = strconv.Atoi(value); err != nil || c.Queues < 1 {
			return fmt.Errorf("queues=%s is not a number of queues, want one from 1 on", value)
		}
	case "mac":
		if c.MAC, err = net.ParseMAC(value); err != nil || len(c.MAC) != 6 {
			return fmt.Errorf("mac=%s is not a MAC address, want six octets like 52:54:00:12:34:56", value)
		}
	case "address":
		addr, err := netip.ParseAddr(value)
		if err != nil {
			return fmt.Errorf("address=%s is not an address, want one like 192.0.2.20 or 2001:db8::20", value)
		}
		c.Addresses = append(c.Addresses, addr)
	case "vlan":
		c.VLAN = strings.ReplaceAll(value, "+", ",") // a comma begins the next option
	case "rule":
		rule := strings.ReplaceAll(value, "+", ",") // likewise
		c.Rules = append(c.Rules, rule)
		return document.CheckRules([]string{rule})
	case "alias":
		c.Aliases = append(c.Aliases, value)
	case "isolated":
		c.Isolated = value == "" || value == "yes"
	case "vhost":
		c.vhost = value
		return checkVhost(value)
	default:
		return fmt.Errorf("option %q is not known: want queues, mac, name, alias, address, ifname, isolated, guard, portgroup, vlan, forward, rule, id, vhost or a limit like inbound.average", key)
	}
	return nil
}

// checkVhost says what is wrong with an option vhost.
func checkVhost(value string) error {
	if !slices.Contains([]string{"on", "off", "auto"}, value) {
		return fmt.Errorf("vhost=%s: want on, off or auto", value)
	}
	return nil
}

// plugged is a card whose port is there.
type plugged struct {
	*client.OpenPort
	vhosts []*os.File // one a queue, or none
}

// runWith makes the ports and becomes the program, which has them open: what is
// sent to this process reaches it, and its exit status is this one's. It returns
// with an error only.
func runWith(ctx context.Context, a *app, cards []card, argv []string) (err error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	d, err := a.dial(ctx)
	if err != nil {
		return err
	}
	var all []plugged
	defer func() {
		for _, p := range all {
			err = errors.Join(err, p.Close(), closeFiles(p.vhosts))
		}
	}()
	for _, c := range cards {
		port, err := d.RequestPort(ctx, c.network, c.PortOptions)
		if err != nil {
			return errors.Join(suggest.Meant(ctx, d, err), d.Close())
		}
		p := plugged{OpenPort: port}
		all = append(all, p)
		if all[len(all)-1].vhosts, err = openVhost(c); err != nil {
			return errors.Join(err, d.Close())
		}
	}
	if err := d.Close(); err != nil {
		return err
	}
	argv, env, err := handOver(argv, all)
	if err != nil {
		return err
	}
	return a.become(path, argv, env)
}

// become turns this process into another program. It returns when it can't.
func become(path string, argv, env []string) error {
	return fmt.Errorf("running %s: %w", path, unix.Exec(path, argv, env))
}

// openVhost opens the kernel's virtio-net once for each queue, if the user may.
func openVhost(c card) ([]*os.File, error) {
	if c.vhost == "off" {
		return nil, nil
	}
	var files []*os.File
	for range c.Queues {
		f, err := os.OpenFile(vhostDevice, os.O_RDWR, 0)
		if err != nil {
			if c.vhost == "auto" {
				err = nil
			}
			return nil, errors.Join(err, closeFiles(files))
		}
		files = append(files, f)
	}
	return files, nil
}

func closeFiles(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// handOver makes the descriptors survive the change of program, and tells it of
// them: in the places that argv has for them, or else by further arguments, as
// QEMU takes them, and in the environment.
func handOver(argv []string, all []plugged) (args, env []string, err error) {
	args = append([]string(nil), argv...)
	var lists, macs []string
	for i, p := range all {
		fds, err := inherit(p.Files)
		if err != nil {
			return nil, nil, err
		}
		vhosts, err := inherit(p.vhosts)
		if err != nil {
			return nil, nil, err
		}
		lists, macs = append(lists, fds), append(macs, p.Info.MAC)
		if args, err = p.place(args, argv, i, fds, vhosts); err != nil {
			return nil, nil, err
		}
	}
	env = append(os.Environ(), "VNET_FDS="+strings.Join(lists, " "), "VNET_MACS="+strings.Join(macs, " "))
	return args, env, nil
}

// inherit takes the close-on-exec flag off files and lists them with colons.
func inherit(files []*os.File) (string, error) {
	var list []string
	for _, f := range files {
		fd := f.Fd()
		if _, err := unix.FcntlInt(fd, unix.F_SETFD, 0); err != nil {
			return "", fmt.Errorf("handing descriptor %d over: %w", fd, err)
		}
		list = append(list, strconv.FormatUint(uint64(fd), 10))
	}
	return strings.Join(list, ":"), nil
}

// place puts the nth port into its places in args: @n0@ stands for descriptors,
// @v0@ for those of vhost-net, @mac0@, @ifname0@, @mtu0@ and @queues0@ for what
// they say. Where the command line argv has none of them, QEMU's options are
// added.
func (p plugged) place(args, argv []string, n int, fds, vhosts string) ([]string, error) {
	at := func(what string) string { return "@" + what + strconv.Itoa(n) + "@" }
	all := strings.Join(argv, "\x00")
	if strings.Contains(all, at("v")) && vhosts == "" {
		return nil, fmt.Errorf("the command line has %s, but %s can't be opened", at("v"), vhostDevice)
	}
	places := map[string]string{
		"n": fds, "v": vhosts, "mac": p.Info.MAC, "ifname": p.Info.IfName,
		"mtu": strconv.Itoa(p.Info.MTU), "queues": strconv.Itoa(len(p.Files)),
	}
	var pairs []string
	found := false
	for what, value := range places {
		pairs = append(pairs, at(what), value)
		found = found || strings.Contains(all, at(what))
	}
	if !found {
		return append(args, p.qemuOptions(n, fds, vhosts)...), nil
	}
	r := strings.NewReplacer(pairs...)
	for i := range args {
		args[i] = r.Replace(args[i])
	}
	return args, nil
}

// qemuOptions are the card and its back end.
func (p plugged) qemuOptions(n int, fds, vhosts string) []string {
	id := "vnet" + strconv.Itoa(n)
	netdev := "tap,id=" + id + ",fds=" + fds
	if vhosts != "" {
		netdev += ",vhost=on,vhostfds=" + vhosts
	}
	device := "virtio-net-pci,netdev=" + id + ",mac=" + p.Info.MAC
	if queues := len(p.Files); queues > 1 {
		// Of each queue both directions, and one each for configuration and control.
		device += ",mq=on,vectors=" + strconv.Itoa(2*queues+2)
	}
	if p.Info.MTU != 0 && p.Info.MTU != document.MTU {
		device += ",host_mtu=" + strconv.Itoa(p.Info.MTU)
	}
	return []string{"-netdev", netdev, "-device", device}
}
