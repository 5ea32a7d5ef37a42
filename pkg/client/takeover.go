package client

import (
	"context"

	"github.com/vnetd/vnetd/pkg/api"
)

// TakeOver makes a network of libvirt's one of vnetd's; where it is active its
// guests stay plugged in. libvirt's network driver and its dnsmasq must have ended.
// With dry nothing is changed, and the result is what would be. api.Invalid,
// api.Exists, api.Conflict and api.Unsupported say what keeps it from that.
func (c *Client) TakeOver(ctx context.Context, t api.Takeover, dry bool) (taken api.Taken, err error) {
	ports := append([]string{}, t.Ports...)
	err = c.document(ctx, &taken, "TakeOver", t.Definition, t.Status, ports, t.Leases, t.Autostart, dry)
	return taken, err
}

// ImportPending reports whether vnetd is configured to take over libvirt's networks
// and they were not yet.
func (c *Client) ImportPending(ctx context.Context) (bool, error) {
	return managerProperty[bool](ctx, c, "ImportPending")
}

// SetImported says that libvirt's networks were taken over.
func (c *Client) SetImported(ctx context.Context) error {
	return c.setProperty(ctx, rootPath, managerInterface, "ImportPending", false)
}
