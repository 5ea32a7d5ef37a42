package libvirtrpc

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"time"

	"github.com/vnetd/vnetd/internal/polkit"
	"github.com/vnetd/vnetd/internal/sysbus"
)

// The ways to authenticate that a client is told of (remote_auth_type).
const (
	authNone       = 0
	authWithPolkit = 2
)

// Members lets the members of a group pass.
func Members(group string) Authorize {
	return func(_ context.Context, who Subject) error {
		denied := &Error{codeAuthFailed, domainPolkit, fmt.Sprintf("user %d is no member of the group %q", who.UID, group)}
		g, err := user.LookupGroup(group)
		if err != nil {
			return denied
		}
		u, err := user.LookupId(strconv.FormatUint(uint64(who.UID), 10))
		if err != nil {
			return denied
		}
		if ids, err := u.GroupIds(); err != nil || !slices.Contains(ids, g.Gid) {
			return denied
		}
		return nil
	}
}

// mustAsk reports whether the client needs more than to be let in by its socket:
// root does not, nor does who may only read.
func (c *session) mustAsk() bool {
	return c.authorize != nil && !c.readOnly && c.peer.uid != 0
}

func authList(_ context.Context, c *session, _ noArgs, results *encoder) error {
	way := int32(authNone)
	if c.mustAsk() {
		way = authWithPolkit
	} else {
		c.authenticated()
	}
	results.uint32(1)
	results.int32(way)
	return nil
}

func authPolkit(ctx context.Context, c *session, _ noArgs, results *encoder) error {
	if !c.mustAsk() {
		return rpcf(codeAuthFailed, "polkit was not asked for")
	}
	// The user may have to type a password.
	if err := c.conn.SetReadDeadline(time.Now().Add(callLimit)); err != nil {
		return err
	}
	began, err := startTime(c.peer.pid)
	if err != nil {
		return err
	}
	err = c.authorize(ctx, Subject{UID: c.peer.uid, PID: c.peer.pid, StartTime: began})
	if err != nil {
		c.log.Info("a client may not manage networks", "error", err)
		return err
	}
	c.authenticated()
	results.flag(true)
	return nil
}

// startTime is when a process began (proc_pid_stat(5), the 22nd field).
func startTime(pid uint32) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("finding out when process %d began: %w", pid, err)
	}
	// The name before the third field may have blanks and parentheses in it.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	const start = 22 - 3
	if len(fields) <= start {
		return 0, fmt.Errorf("finding out when process %d began: its stat file has %d fields", pid, len(fields))
	}
	return strconv.ParseUint(string(fields[start]), 10, 64)
}

// polkitManage is the action that is asked for: our own, since polkit answers
// questions about others only to root and to the owner of an action. Its rule lets
// pass the group libvirt, as that of libvirt does.
const polkitManage = "org.vnetd1.manage-networks"

// Polkit asks polkit, over the system bus, whether a process may manage
// networks, by the same action as on our own bus. The
// user may be asked for a password.
func Polkit(ctx context.Context, who Subject) error {
	bus, err := sysbus.Connect(ctx)
	if err != nil {
		return &Error{codeAuthFailed, domainPolkit, fmt.Sprintf("the system bus, on which polkit is, can't be reached: %v", err)}
	}
	defer func() { _ = bus.Close() }()
	result, err := polkit.Check(ctx, bus, polkit.Process(who.PID, who.StartTime, who.UID), polkitManage, map[string]string{}, true)
	switch {
	case err != nil:
		return &Error{codeAuthFailed, domainPolkit, fmt.Sprintf("asking polkit: %v", err)}
	case result.Authorized:
		return nil
	case result.Details["polkit.dismissed"] != "":
		return &Error{codeAuthCancelled, domainPolkit, "user cancelled authentication process"}
	case result.Challenge:
		return &Error{codeNoAgent, domainPolkit, "no polkit agent available to authenticate action '" + polkitManage + "'"}
	}
	return &Error{codeAuthFailed, domainPolkit, "access denied by policy"}
}
