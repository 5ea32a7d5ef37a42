package env

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/health"
	"github.com/vnetd/vnetd/pkg/network/port"
)

// hookLimit is how long a hook may take.
const hookLimit = 30 * time.Second

// errHookLimit is why a hook was killed.
var errHookLimit = fmt.Errorf("it did not end within %v", hookLimit)

// The operations that the hook is told of, with libvirt's words: what happens,
// and in which part of it the hook is called.
var (
	HookStart   = HookCall{"start", "begin", true}
	HookStarted = HookCall{"started", "begin", true}
	HookUpdated = HookCall{"updated", "begin", true}
	HookStopped = HookCall{"stopped", "end", false}

	HookPortCreated = HookCall{"port-created", "begin", true}
	HookPortDeleted = HookCall{"port-deleted", "begin", false}
)

// HookCall is an operation that the hook is told of.
type HookCall struct {
	operation, part string
	decides         bool // the operation is not done where the hook fails
}

// RunHook runs the admin's hook, where one is configured, as libvirt runs
// /etc/libvirt/hooks/network: its arguments are the network's name, the
// operation, the part of it and "-"; the network's document stands on its
// standard input, inside <hookData>. Its failure is an error that tells what it
// said.
func (e *Environment) RunHook(ctx context.Context, what HookCall, n *netdef.Network) error {
	return e.callHook(ctx, what, n, nil)
}

// RunPortHook is RunHook for what happens to a port, whose document follows the
// network's.
func (e *Environment) RunPortHook(ctx context.Context, what HookCall, n *netdef.Network, p *port.Port) error {
	doc := p.Document()
	if doc == nil {
		doc = p.Describe(n.Bridge.Name)
	}
	return e.callHook(ctx, what, n, doc)
}

// callHook is RunHook, with the document of a port that may be nil. How it ended is among
// the conditions, unless it ended because ctx did.
func (e *Environment) callHook(ctx context.Context, what HookCall, n *netdef.Network, p *netdef.Port) error {
	if e.Hook == "" {
		return nil
	}
	err := e.execHook(ctx, what, n, p)
	if ctx.Err() == nil {
		e.Hooks.Called(health.FailedHook{Network: n.Name, Operation: what.operation, Undone: what.decides, Err: err})
	}
	return err
}

// execHook executes the hook.
func (e *Environment) execHook(ctx context.Context, what HookCall, n *netdef.Network, p *netdef.Port) error {
	ctx, cancel := context.WithTimeoutCause(ctx, hookLimit, errHookLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.Hook, n.Name, what.operation, what.part, "-")
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"}
	cmd.Stdin = strings.NewReader(hookData(n, p))
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return fmt.Errorf("hook %s %s %s %s: %w: %s", e.Hook, n.Name, what.operation, what.part, cause, bytes.TrimSpace(said.Bytes()))
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("hook %s %s %s %s: %w: %s", e.Hook, n.Name, what.operation, what.part, exit, bytes.TrimSpace(said.Bytes()))
	}
	if err != nil {
		return fmt.Errorf("running hook %s: %w", e.Hook, err)
	}
	return nil
}

// hookData is what a hook reads: the network's document and, where there is one,
// a port's.
func hookData(n *netdef.Network, p *netdef.Port) string {
	documents := [][]byte{n.LiveXML(netdef.Connections{})}
	if p != nil {
		documents = append(documents, p.XML())
	}
	var b strings.Builder
	b.WriteString("<hookData>\n")
	for _, d := range documents {
		for line := range strings.Lines(string(d)) {
			b.WriteString("  " + line)
		}
	}
	b.WriteString("</hookData>\n")
	return b.String()
}
