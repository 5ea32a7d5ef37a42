package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/godbus/dbus/v5"
)

// defaultBus is where every system bus listens. (D-Bus specification,
// "Well-known Message Bus Instances")
const defaultBus = "unix:path=/var/run/dbus/system_bus_socket"

// busAddress returns the addresses of the system bus, with semicolons between.
func busAddress() string {
	if address := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"); address != "" {
		return address
	}
	return defaultBus
}

// connect returns a connection to the system bus that lives until it is closed
// or ctx ends.
func connect(ctx context.Context) (*dbus.Conn, error) {
	socket, err := dialFirst(ctx, busAddress())
	if err != nil {
		return nil, err
	}
	fds := newFDConn(socket)
	conn, err := dbus.NewConn(fds, dbus.WithContext(ctx), dbus.WithIncomingInterceptor(fds.intercept))
	if err != nil {
		return nil, errors.Join(err, fds.Close())
	}
	if err := conn.Auth(nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := conn.Hello(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// dialFirst connects to the first of the addresses that answers.
func dialFirst(ctx context.Context, addresses string) (*net.UnixConn, error) {
	var errs []error
	for address := range strings.SplitSeq(addresses, ";") {
		name, err := socketName(address)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		conn, err := new(net.Dialer).DialContext(ctx, "unix", name)
		if err == nil {
			return conn.(*net.UnixConn), nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// socketName returns the socket of one address, such as
// "unix:path=/run/bus,guid=0123", as the net package writes it. Only Unix
// sockets can pass file descriptors, so only they are of use. Values are
// escaped with % and two hex digits. (D-Bus specification, "Server Addresses")
func socketName(address string) (string, error) {
	pairs, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return "", fmt.Errorf("bus address %q is not of a Unix socket", address)
	}
	for pair := range strings.SplitSeq(pairs, ",") {
		key, value, _ := strings.Cut(pair, "=")
		name, err := url.PathUnescape(value)
		if err != nil {
			return "", fmt.Errorf("bus address %q: %w", address, err)
		}
		switch {
		case name == "":
		case key == "path":
			return name, nil
		case key == "abstract":
			return "@" + name, nil
		}
	}
	return "", fmt.Errorf("bus address %q has neither path nor abstract", address)
}
