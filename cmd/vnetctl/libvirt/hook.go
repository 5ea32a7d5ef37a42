package libvirt

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

const (
	// maxHookInput is the longest input of a hook, in bytes.
	maxHookInput = 16 << 20
	// hookLimit is how long libvirtd waits for vnetd.
	hookLimit = 20 * time.Second
)

// hookInput is what libvirtd's hooks of networks read.
type hookInput struct {
	Network networkDocument `xml:"network"`
	Port    *hookPort       `xml:"networkport"`
}

// hookPort is what vnetd is told of a port: not the plug, which is vnetd's to say.
type hookPort struct {
	XMLName   xml.Name    `xml:"networkport"`
	UUID      string      `xml:"uuid"`
	Owner     *rawElement `xml:"owner"`
	Group     *rawElement `xml:"group"`
	MAC       *rawElement `xml:"mac"`
	Bandwidth *rawElement `xml:"bandwidth"`
	VLAN      *rawElement `xml:"vlan"`
	Isolated  *rawElement `xml:"port"`
}

// Hook does what libvirtd's hook of networks is to do, which reads stdin: an error
// keeps the network from starting, or the guest. It does nothing for networks that are
// no mirrors. A vnetd that does not run hinders nobody: its bridges are there all the
// same, and it finds guests by their devices.
func Hook(
	ctx context.Context, operation string, stdin io.Reader, dial func(context.Context) (*client.Client, error), tell func(text string),
) error {
	var in hookInput
	if err := xml.NewDecoder(io.LimitReader(stdin, maxHookInput)).Decode(&in); err != nil {
		// Not worth keeping a network of libvirtd's own from starting.
		tell("reading what libvirtd tells its hook: " + err.Error())
		return nil
	}
	if in.Network.digest() == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, hookLimit)
	defer cancel()
	d, err := dial(ctx)
	if err == nil {
		defer func() { _ = d.Close() }()
		err = onHook(ctx, d, operation, in)
	}
	if errors.Is(err, api.NotRunning) {
		tell("vnetd is not told: " + err.Error())
		return nil
	}
	return err
}

// onHook does for vnetd what libvirtd's operation means.
func onHook(ctx context.Context, d *client.Client, operation string, in hookInput) error {
	name := in.Network.Name
	network := d.Network(name)
	switch {
	case operation == "start":
		n, err := network.Get(ctx)
		if err == nil && !n.Active {
			err = fmt.Errorf("network %q is vnetd's and not active there: vnetctl start %s", name, name)
		}
		return err
	case operation == "port-created" && in.Port != nil:
		doc, err := xml.Marshal(in.Port)
		if err != nil {
			return err
		}
		if _, err = network.RegisterPort(ctx, string(doc)); !errors.Is(err, api.Exists) {
			return err // it exists when libvirtd starts anew under its guests
		}
	case operation == "port-deleted" && in.Port != nil:
		if err := d.Port(in.Port.UUID).Release(ctx); !errors.Is(err, api.NotFound) {
			return err
		}
	}
	return nil
}
