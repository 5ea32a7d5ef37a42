package libvirtrpc

import (
	"context"
	"fmt"

	"github.com/vnetd/vnetd/internal/polkit"
	"github.com/vnetd/vnetd/internal/sysbus"
)

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
