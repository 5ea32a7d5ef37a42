package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// actLimit ends an act of a client that gets no answer.
const actLimit = time.Minute

// definite reports whether an error says that nothing has happened. What the bus, the disk
// or the kernel did in between may have.
func definite(err error) bool {
	if failed := (golibvirt.Error{}); errors.As(err, &failed) {
		switch golibvirt.ErrorNumber(failed.Code) {
		case golibvirt.ErrNoNetwork, golibvirt.ErrOperationInvalid, golibvirt.ErrNetworkExist, golibvirt.ErrXMLError, golibvirt.ErrInvalidArg, golibvirt.ErrResourceBusy, golibvirt.ErrOperationDenied:
			return true
		}
		return false
	}
	kind, _ := api.KindOf(err)
	if failed := (*client.Error)(nil); errors.As(err, &failed) {
		kind = failed.Kind
	}
	switch kind {
	case api.NotFound, api.Exists, api.Invalid, api.InvalidState, api.Conflict, api.Busy, api.Denied, api.LimitExceeded, api.Unsupported:
		return true
	}
	return false
}

// protocol is how an admin speaks to vnetd about networks.
type protocol interface {
	define(ctx context.Context, xml string) error
	undefine(ctx context.Context, name string) error
	start(ctx context.Context, name string) error
	create(ctx context.Context, xml string) error
	stop(ctx context.Context, name string) error
	list(ctx context.Context) error
	close()
}

// overBus is a protocol of its own connection to the bus, made again when it is lost.
type overBus struct{ conn *client.Client }

// dial returns a connection that worked the last time.
func (o *overBus) dial(ctx context.Context) (*client.Client, error) {
	if o.conn == nil {
		conn, err := client.Dial(ctx)
		if err != nil {
			return nil, err
		}
		o.conn = conn
	}
	return o.conn, nil
}

// with calls do with the connection, which is given up where nobody answered by it.
func (o *overBus) with(ctx context.Context, do func(*client.Client) error) error {
	conn, err := o.dial(ctx)
	if err == nil {
		err = do(conn)
	}
	if errors.Is(err, client.ErrNotRunning) {
		o.close()
	}
	return err
}

func (o *overBus) close() {
	if o.conn != nil {
		_ = o.conn.Close()
		o.conn = nil
	}
}

func (o *overBus) define(ctx context.Context, xml string) error {
	return o.with(ctx, func(c *client.Client) error {
		_, err := c.DefineNetwork(ctx, xml, api.DefineOptions{})
		return err
	})
}

func (o *overBus) undefine(ctx context.Context, name string) error {
	return o.with(ctx, func(c *client.Client) error { return c.Network(name).Undefine(ctx) })
}

func (o *overBus) start(ctx context.Context, name string) error {
	return o.with(ctx, func(c *client.Client) error { return c.Network(name).Start(ctx) })
}

func (o *overBus) create(ctx context.Context, xml string) error {
	return o.with(ctx, func(c *client.Client) error {
		_, err := c.CreateNetwork(ctx, xml)
		return err
	})
}

func (o *overBus) stop(ctx context.Context, name string) error {
	return o.with(ctx, func(c *client.Client) error { return c.Network(name).Stop(ctx) })
}

func (o *overBus) list(ctx context.Context) error {
	return o.with(ctx, func(c *client.Client) error {
		_, err := c.Networks(ctx)
		_, portsErr := c.Ports(ctx)
		return errors.Join(err, portsErr)
	})
}

// overLibvirt is a protocol of its own connection to libvirt's socket.
type overLibvirt struct{ conn *golibvirt.Libvirt }

// with calls do with the connection, which is given up after anything but vnetd's refusal:
// the library waits for ever for what a daemon that is gone has not answered.
func (o *overLibvirt) with(ctx context.Context, do func(*golibvirt.Libvirt) error) error {
	done := make(chan error, 1)
	if o.conn == nil {
		conn := golibvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(libvirtSocket)))
		if err := conn.ConnectToURI("network:///system"); err != nil {
			return fmt.Errorf("connecting: %w", err)
		}
		o.conn = conn
	}
	conn := o.conn
	go func() { done <- do(conn) }()
	var err error
	select {
	case err = <-done:
	case <-conn.Disconnected():
		err = errors.New("disconnected")
	case <-ctx.Done():
		err = ctx.Err()
	}
	if failed := (golibvirt.Error{}); err != nil && !errors.As(err, &failed) {
		o.close()
	}
	return err
}

func (o *overLibvirt) close() {
	if o.conn != nil {
		conn := o.conn
		o.conn = nil
		go func() { _ = conn.Disconnect() }()
	}
}

func (o *overLibvirt) define(ctx context.Context, xml string) error {
	return o.with(ctx, func(c *golibvirt.Libvirt) error {
		_, err := c.NetworkDefineXML(xml)
		return err
	})
}

// on calls do with the network of that name.
func (o *overLibvirt) on(ctx context.Context, name string, do func(*golibvirt.Libvirt, golibvirt.Network) error) error {
	return o.with(ctx, func(c *golibvirt.Libvirt) error {
		n, err := c.NetworkLookupByName(name)
		if err != nil {
			return err
		}
		return do(c, n)
	})
}

func (o *overLibvirt) undefine(ctx context.Context, name string) error {
	return o.on(ctx, name, (*golibvirt.Libvirt).NetworkUndefine)
}

func (o *overLibvirt) start(ctx context.Context, name string) error {
	return o.on(ctx, name, (*golibvirt.Libvirt).NetworkCreate)
}

func (o *overLibvirt) create(ctx context.Context, xml string) error {
	return o.with(ctx, func(c *golibvirt.Libvirt) error {
		_, err := c.NetworkCreateXML(xml)
		return err
	})
}

func (o *overLibvirt) stop(ctx context.Context, name string) error {
	return o.on(ctx, name, (*golibvirt.Libvirt).NetworkDestroy)
}

func (o *overLibvirt) list(ctx context.Context) error {
	return o.with(ctx, func(c *golibvirt.Libvirt) error {
		_, _, err := c.ConnectListAllNetworks(1, 0)
		return err
	})
}
