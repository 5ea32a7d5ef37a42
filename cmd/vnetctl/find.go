package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// networkNames returns the names of all networks.
func networkNames(ctx context.Context, d *client.Client) ([]string, error) {
	networks, err := d.Networks(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(networks))
	for _, n := range networks {
		names = append(names, n.Name)
	}
	return names, nil
}

// findPorts returns the ports of one network, or all if name is empty.
func findPorts(ctx context.Context, d *client.Client, name string) ([]api.Port, error) {
	ports, err := d.Ports(ctx)
	if err != nil || name == "" {
		return ports, err
	}
	network, err := d.Network(name).Get(ctx)
	if err != nil {
		return nil, err
	}
	var found []api.Port
	for _, port := range ports {
		if port.Network == network.Name {
			found = append(found, port)
		}
	}
	return found, nil
}

// findPort returns the port with the UUID or the device name, or the only one of
// a guest with that name.
func findPort(ctx context.Context, d *client.Client, id string) (api.Port, error) {
	ports, err := d.Ports(ctx)
	if err != nil {
		return api.Port{}, err
	}
	var named []api.Port
	for _, port := range ports {
		switch {
		case port.UUID == id || port.IfName == id:
			return port, nil
		case port.Name != "" && strings.EqualFold(port.Name, id):
			named = append(named, port)
		}
	}
	switch len(named) {
	case 0:
		return api.Port{}, &client.Error{
			Kind: api.NotFound, Message: fmt.Sprintf("no port has the UUID, device name or guest's name %q", id),
		}
	case 1:
		return named[0], nil
	}
	return api.Port{}, &client.Error{
		Kind: api.Conflict, Message: fmt.Sprintf("%d ports are of a guest %q: name one by UUID or device", len(named), id),
	}
}
