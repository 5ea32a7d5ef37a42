package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
)

// errHelp means that the user asked for help and got it.
var errHelp = flag.ErrHelp

// options are the command line. QEMU gives --use-vnet, --fd and --br; what
// stands in its helper= string after the program comes before them.
type options struct {
	vnetHdr bool
	fd      int
	bridge  string           // a network's or a bridge's name
	mac     net.HardwareAddr // nil if not given
	name    string
	aliases []string
}

// parseArgs parses the arguments without the program's name. Help goes to
// stdout and is errHelp.
func parseArgs(args []string, stdout io.Writer) (options, error) {
	var opts options
	set := flag.NewFlagSet("vnet-bridge-helper", flag.ContinueOnError)
	// The flag package prints more than the one sentence we want.
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	set.BoolVar(&opts.vnetHdr, "use-vnet", false, "let the device carry virtio-net headers")
	set.IntVar(&opts.fd, "fd", -1, "descriptor of the Unix stream socket to QEMU")
	set.StringVar(&opts.bridge, "br", "br0", "name of the network or of its bridge")
	set.StringVar(&opts.name, "name", "", "the guest's host name")
	set.Func("alias", "another name of the guest; may be repeated", func(text string) error {
		opts.aliases = append(opts.aliases, text)
		return nil
	})
	set.Func("mac", "the guest's MAC address", func(text string) (err error) {
		opts.mac, err = parseMAC(text)
		return err
	})
	err := set.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		set.SetOutput(stdout)
		set.PrintDefaults()
		return options{}, errHelp
	case err != nil:
		return options{}, err
	case set.NArg() > 0:
		return options{}, fmt.Errorf("unexpected argument %q", set.Arg(0))
	case opts.fd < 0:
		return options{}, errors.New("--fd=N is missing: this program is run by QEMU, as -netdev tap,br=NETWORK,helper=PATH")
	case opts.bridge == "":
		return options{}, errors.New("--br is empty")
	}
	return opts, nil
}

// parseMAC parses an Ethernet address.
func parseMAC(text string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 {
		return nil, errors.New("not a MAC address")
	}
	return mac, nil
}
