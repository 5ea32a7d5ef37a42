package dbusapi

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vnetd/vnetd/internal/polkit"
	"github.com/vnetd/vnetd/internal/quota"
	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/api"
)

// action is a right that a method needs, by the name that polkit has for it.
type action string

// The rights. A method that needs selfCheck asks for those it needs itself.
const (
	selfCheck      action = ""
	read           action = "org.vnetd1.read"
	requestPort    action = "org.vnetd1.request-port"
	chooseAddress  action = "org.vnetd1.choose-address"
	manageNetworks action = "org.vnetd1.manage-networks"
)

// String says what the right is for, as in "may not …".
func (a action) String() string {
	switch a {
	case read:
		return "look at the networks"
	case requestPort:
		return "request ports"
	case chooseAddress:
		return "choose a port's MAC address, addresses, device name, owner, guard or bandwidth"
	default:
		return "manage networks"
	}
}

// adminGroup is the group whose members may do everything where polkit does not
// run; where it does, vnetd's rules file gives them the same.
const adminGroup = "vnet"

// How long the answer to a question about rights is waited for, when the user
// can be asked for a password and when not, and how long leave to read holds.
const (
	askUserLimit = 5 * time.Minute
	askLimit     = 30 * time.Second
	readFor      = 10 * time.Second
)

// clients are what is known of clients of the bus, by their unique names, which
// are never given out again as long as the bus lives.
type clients struct {
	users *quota.Users

	mu    sync.Mutex
	known map[string]*clientState
}

type clientState struct {
	left  context.Context // ends when the client leaves the bus
	leave context.CancelFunc
	calls *quota.User // while nobody knows whose client it is

	// The rest is guarded by clients.mu.
	identified bool
	credentials
	mayRead time.Time // until then
}

// enter returns what is known of a client, from whom a call has come, and on whose
// account that goes.
func (c *clients) enter(name string) (*clientState, *quota.User) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.known[name]
	if s == nil {
		left, leave := context.WithCancel(context.Background())
		s = &clientState{left: left, leave: leave, calls: c.users.Unknown()}
		c.known[strings.Clone(name)] = s // it is part of 4 KiB, in which the library has all strings of a message
	}
	if s.identified {
		return s, c.users.Of(s.uid)
	}
	return s, s.calls
}

// forget is called when a client has left the bus.
func (c *clients) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.known[name]; s != nil {
		s.leave()
		delete(c.known, name)
	}
}

// get returns who a client is, with ask where that is not known.
func (c *clients) get(name string, ask func() (credentials, error)) (credentials, error) {
	c.mu.Lock()
	s := c.known[name]
	if s != nil && s.identified {
		defer c.mu.Unlock()
		return s.credentials, nil
	}
	c.mu.Unlock()
	who, err := ask()
	if err != nil {
		return who, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.known[name]; s != nil { // it has not left meanwhile
		s.credentials, s.identified = who, true
	}
	return who, nil
}

// isOf reports whether a client is known to be that user's.
func (c *clients) isOf(name string, user uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.known[name]
	return s != nil && s.identified && s.uid == user
}

// mayRead reports whether a client was lately found to have leave to read, and
// noteRead that it was found now.
func (c *clients) mayRead(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.known[name]
	return s != nil && time.Now().Before(s.mayRead)
}

func (c *clients) noteRead(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.known[name]; s != nil {
		s.mayRead = time.Now().Add(readFor)
	}
}

// call is one method call on its way through.
type call struct {
	sender      string
	who         credentials // of the sender; not known yet where the method needs selfCheck
	interactive bool        // the user may be asked for a password
	body        []any
	left        context.Context // ends when the sender leaves the bus

	// files go with the reply, in whose body sysbus.Files stands for them, and
	// are closed when it has been written, or could not be.
	files []*os.File
}

func (c *call) close() {
	for _, f := range c.files {
		_ = f.Close()
	}
}

// rights finds out who callers are and what they may do.
type rights struct {
	conn      *sysbus.Conn
	log       *slog.Logger
	clients   clients
	bridgeACL string // Config.BridgeACL
}

// authorize lets the caller pass or returns a Denied error. Root may do
// everything; for others polkit decides, or where it does not run, the
// membership in adminGroup. networkName is for polkit's rules, empty for none.
func (r *rights) authorize(ctx context.Context, c *call, needs action, networkName string) error {
	if err := r.identify(ctx, c); err != nil {
		return err
	}
	if c.who.uid == 0 || needs == read && r.clients.mayRead(c.sender) {
		return nil
	}
	limit := askLimit
	if c.interactive {
		limit = askUserLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	verdict, err := polkit.Check(ctx, r.conn, polkit.BusName(c.sender), string(needs), about(networkName), c.interactive)
	switch {
	case polkit.Absent(err):
		if needs != read && !c.who.inGroup(adminGroup) {
			return api.Errorf(api.Denied, "%s may not %s: root and members of the group %q may", c.who, needs, adminGroup)
		}
	case err != nil:
		r.log.Warn("asking polkit", "action", string(needs), "error", err)
		return api.Errorf(api.Denied, "%s may not %s: polkit did not decide: %v", c.who, needs, err)
	case !verdict.Authorized && verdict.Challenge:
		why := "the call does not allow to ask for one"
		if c.interactive {
			why = "nobody could be asked for one"
		}
		return api.Errorf(api.Denied, "%s may not %s without a password, and %s (polkit action %s)", c.who, needs, why, string(needs))
	case !verdict.Authorized:
		return api.Errorf(api.Denied, "%s may not %s (polkit action %s)", c.who, needs, string(needs))
	}
	if needs == read {
		r.clients.noteRead(c.sender)
	}
	return nil
}

// about is what polkit's rules are told of the network in question.
func about(networkName string) map[string]string {
	if networkName == "" {
		return map[string]string{}
	}
	return map[string]string{"network": networkName}
}

// identify sets c.who.
func (r *rights) identify(ctx context.Context, c *call) (err error) {
	c.who, err = r.clients.get(c.sender, func() (credentials, error) { return r.credentials(ctx, c.sender) })
	return err
}

// credentials of a client of the bus.
type credentials struct {
	uid    uint32
	groups []uint32 // supplementary ones included
}

// String names the user for a person.
func (c credentials) String() string {
	uid := strconv.FormatUint(uint64(c.uid), 10)
	if u, err := user.LookupId(uid); err == nil {
		return "user " + u.Username
	}
	return "user " + uid
}

// credentials asks the bus who the sender is. They are the kernel's word, taken
// when the sender connected; where the bus does not tell groups, they are those
// of the system's user database.
func (r *rights) credentials(ctx context.Context, sender string) (credentials, error) {
	var got map[string]any
	err := r.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionCredentials", 0, sender).Store(&got)
	if err != nil {
		return credentials{}, fmt.Errorf("asking the bus who %s is: %w", sender, err)
	}
	uid, ok := got["UnixUserID"].(uint32)
	if !ok {
		return credentials{}, api.Errorf(api.Denied, "the bus does not tell who %s is", sender)
	}
	groups, ok := got["UnixGroupIDs"].([]uint32)
	if !ok {
		groups = groupsOf(uid)
	}
	return credentials{uid, groups}, nil
}

// groupsOf lists a user's groups by the system's user database.
func groupsOf(uid uint32) []uint32 {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return nil
	}
	gids, err := u.GroupIds()
	if err != nil {
		return nil
	}
	var groups []uint32
	for _, text := range gids {
		if gid, err := strconv.ParseUint(text, 10, 32); err == nil {
			groups = append(groups, uint32(gid))
		}
	}
	return groups
}

// inGroup reports whether the client belongs to a group.
func (c credentials) inGroup(name string) bool {
	g, err := user.LookupGroup(name)
	if err != nil {
		return false
	}
	gid, err := strconv.ParseUint(g.Gid, 10, 32)
	return err == nil && slices.Contains(c.groups, uint32(gid))
}

// is reports whether the client is the user of that name.
func (c credentials) is(name string) bool {
	u, err := user.Lookup(name)
	return err == nil && u.Uid == strconv.FormatUint(uint64(c.uid), 10)
}
