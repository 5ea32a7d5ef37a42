package daemon

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// unitLimit is how long systemctl may take to answer.
const unitLimit = 2 * time.Second

// Show returns what systemctl says of vnetd.service, a property a line, or
// nothing where systemd does not run or another bus is in use than its own.
func Show(ctx context.Context) string {
	if os.Getenv("DBUS_SYSTEM_BUS_ADDRESS") != "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, unitLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=LoadState,ActiveState,SubState,UnitFileState", "vnetd.service").Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// Absence returns why vnetd does not run and the command that helps, by what Show
// returned; both are empty where that is.
func Absence(shown string) (why, remedy string) {
	is := func(property string) bool { return strings.Contains(shown, property+"\n") }
	switch {
	case shown == "":
		return "", ""
	case is("LoadState=not-found"):
		return "its service is not installed", "apt install vnetd"
	case is("LoadState=masked"):
		return "its service is masked", "systemctl unmask vnetd && systemctl start vnetd"
	case is("ActiveState=failed"), is("SubState=auto-restart"):
		return "it failed at its start", "journalctl -u vnetd -e"
	case is("ActiveState=activating"), is("ActiveState=reloading"):
		return "it is starting", "systemctl status vnetd"
	case is("ActiveState=active"):
		return "its service is active, but has not taken its name on the bus", "journalctl -u vnetd -e"
	case is("UnitFileState=disabled"):
		return "it is stopped, and does not start with the host", "systemctl enable --now vnetd"
	}
	return "it is stopped", "systemctl start vnetd"
}

// Explain adds to a failure for want of vnetd why it does not run and what helps.
func Explain(err error, shown string) error {
	why, remedy := Absence(shown)
	if why == "" || !errors.Is(err, api.NotRunning) {
		return err
	}
	return &client.Error{Kind: api.NotRunning, Message: err.Error() + ": " + why + "; try: " + remedy}
}
