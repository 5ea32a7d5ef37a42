package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// hookLimit is how long a hook may take.
const hookLimit = 30 * time.Second

// The operations that the hook is told of, with libvirt's words: what happens,
// and in which part of it the hook is called.
var (
	hookStart   = hookCall{"start", "begin"}
	hookStarted = hookCall{"started", "begin"}
	hookUpdated = hookCall{"updated", "begin"}
	hookStopped = hookCall{"stopped", "end"}
)

type hookCall struct{ operation, part string }

// hook runs the admin's hook, where one is configured, as libvirt runs
// /etc/libvirt/hooks/network: its arguments are the network's name, the
// operation, the part of it and "-"; the network's document stands on its
// standard input, inside <hookData>. Its failure is an error that tells what it
// said.
func (m *Manager) hook(ctx context.Context, h hookCall, n *netdef.Network) error {
	if m.cfg.Hook == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, hookLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.cfg.Hook, n.Name, h.operation, h.part, "-")
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"}
	cmd.Stdin = strings.NewReader(hookData(n))
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("hook %s %s %s %s: %w: %s", m.cfg.Hook, n.Name, h.operation, h.part, exit, bytes.TrimSpace(said.Bytes()))
	}
	if err != nil {
		return fmt.Errorf("running hook %s: %w", m.cfg.Hook, err)
	}
	return nil
}

// hookData is what a hook reads.
func hookData(n *netdef.Network) string {
	var b strings.Builder
	b.WriteString("<hookData>\n")
	for line := range strings.Lines(string(n.LiveXML(0))) {
		b.WriteString("  " + line)
	}
	b.WriteString("</hookData>\n")
	return b.String()
}
