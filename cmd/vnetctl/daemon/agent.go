// Package daemon is vnetctl's way to vnetd: the connection, with who asks for a
// password, and why there is none.
package daemon

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/vnetd/vnetd/pkg/client"
)

// agentLimit is how long polkit's agent may take to register.
const agentLimit = 2 * time.Second

// Dial connects to vnetd for a person. One at a terminal without root's rights may
// be asked for a password there: a desktop has an agent of its own that asks, and
// pkttyagent(1) does where there is none. It ends with this program.
func Dial(ctx context.Context, terminal bool) (*client.Client, error) {
	if terminal && os.Geteuid() != 0 {
		startAgent(ctx)
	}
	return client.Dial(ctx, client.Interactive())
}

// startAgent starts polkit's agent for this process and waits until it is
// registered. Without one, what needs a password is denied.
func startAgent(ctx context.Context) {
	registered, notify, err := os.Pipe()
	if err != nil {
		return
	}
	defer func() { _ = registered.Close() }()
	agent := exec.CommandContext(ctx, "pkttyagent", "--fallback", "--process", strconv.Itoa(os.Getpid()), "--notify-fd", "3")
	agent.Stdin, agent.Stdout, agent.Stderr = os.Stdin, os.Stdout, os.Stderr
	agent.ExtraFiles = []*os.File{notify}
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	err = agent.Start()
	_ = notify.Close()
	if err != nil {
		return
	}
	_ = registered.SetReadDeadline(time.Now().Add(agentLimit))
	_, _ = registered.Read(make([]byte, 1)) // ends when the agent closes its copy
}
