package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// helpedPort has vnet-bridge-helper make a port, as QEMU does, and asks over the bus which one it is.
func (g *guest) helpedPort(ctx context.Context, c *client.Client) (_ *client.OpenPort, err error) {
	tap, err := nstest.PlugAsQEMU(ctx, g.w.lab.Helper(), "--mac="+g.mac.String(), "--name="+g.name, "--br="+g.network)
	if err != nil {
		return nil, err
	}
	p := &client.OpenPort{Files: []*os.File{tap}}
	defer func() {
		if err != nil {
			_ = p.Close()
		}
	}()
	name, err := deviceOf(tap)
	if err != nil {
		return nil, err
	}
	all, err := c.Ports(ctx)
	if err != nil {
		return nil, err
	}
	// A former port of that name may be there still, if the disk has refused to forget it.
	i := slices.IndexFunc(all, func(is api.Port) bool { return is.IfName == name && is.MAC == g.mac.String() })
	if i < 0 {
		err := fmt.Errorf("port %s of vnet-bridge-helper is not known", name)
		g.w.books.fault("%w", err)
		return nil, err
	}
	p.Info, p.Port = all[i], c.Port(all[i].UUID)
	return p, nil
}

// deviceOf is the name of the TAP device of a descriptor (TUNGETIFF of linux/if_tun.h).
func deviceOf(tap *os.File) (string, error) {
	request, err := unix.NewIfreq("none")
	if err != nil {
		return "", err
	}
	if err := unix.IoctlIfreq(int(tap.Fd()), unix.TUNGETIFF, request); err != nil {
		return "", fmt.Errorf("asking for the name of a device: %w", err)
	}
	return request.Name(), nil
}
