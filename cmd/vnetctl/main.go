// Command vnetctl is the command line of vnetd.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/vnetd/vnetd/cmd/vnetctl/daemon"
	"github.com/vnetd/vnetd/pkg/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	asks := isTerminal(os.Stdin) && isTerminal(os.Stderr)
	code := run(ctx, os.Args[1:], environment{
		stdin:   os.Stdin,
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		dial:    func(ctx context.Context) (*client.Client, error) { return daemon.Dial(ctx, asks) },
		now:     time.Now,
		version: buildVersion(),
		colour:  wantsColour(os.Stdout),
		width:   terminalWidth(os.Stdout),
		asks:    asks,
		become:  become,
	})
	stop()
	os.Exit(code)
}

// version is set by the linker; otherwise the module's own is told.
var version string

// buildVersion returns the version that this program was built as.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
