package sysbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
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
