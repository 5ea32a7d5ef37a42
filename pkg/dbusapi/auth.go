package dbusapi

import (
	"context"
	"fmt"
	"os/user"
	"slices"
	"strconv"

	"github.com/vnetd/vnetd/pkg/network"
)

// action is a right that a method needs.
type action string

// The rights, named as polkit will know them.
const (
	read           action = "org.vnetd1.read"
	requestPort    action = "org.vnetd1.request-port"
	manageNetworks action = "org.vnetd1.manage-networks"
)

// adminGroup is the group whose members may do everything, as root may.
const adminGroup = "vnet"

// authorize lets the caller pass or returns a Denied error. Everybody may read.
// It sets c.uid where it had to ask for it.
func (s *Server) authorize(ctx context.Context, c *call, needs action) error {
	if needs == read {
		return nil
	}
	who, err := s.credentials(ctx, c.sender)
	if err != nil {
		return err
	}
	c.uid = who.uid
	if who.uid == 0 || who.inGroup(adminGroup) {
		return nil
	}
	return network.Errorf(network.Denied, "user %d may not %s: root and members of the group %q may", who.uid, needs, adminGroup)
}

// credentials of a client of the bus.
type credentials struct {
	uid    uint32
	groups []uint32 // supplementary ones included; empty where the bus does not tell
}

// credentials asks the bus who the sender is. They are the kernel's word, taken
// when the sender connected.
func (s *Server) credentials(ctx context.Context, sender string) (credentials, error) {
	var got map[string]any
	err := s.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionCredentials", 0, sender).Store(&got)
	if err != nil {
		return credentials{}, fmt.Errorf("asking the bus who %s is: %w", sender, err)
	}
	uid, ok := got["UnixUserID"].(uint32)
	if !ok {
		return credentials{}, network.Errorf(network.Denied, "the bus does not tell who %s is", sender)
	}
	groups, _ := got["UnixGroupIDs"].([]uint32)
	return credentials{uid, groups}, nil
}

// inGroup tells whether the client belongs to a group, by the bus's word or,
// where it gives none, by the system's user database.
func (c credentials) inGroup(name string) bool {
	g, err := user.LookupGroup(name)
	if err != nil {
		return false
	}
	if len(c.groups) > 0 {
		gid, err := strconv.ParseUint(g.Gid, 10, 32)
		return err == nil && slices.Contains(c.groups, uint32(gid))
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(c.uid), 10))
	if err != nil {
		return false
	}
	gids, err := u.GroupIds()
	return err == nil && slices.Contains(gids, g.Gid)
}
