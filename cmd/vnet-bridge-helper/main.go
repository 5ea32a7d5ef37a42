// Command vnet-bridge-helper is the program that QEMU runs to get a network
// device: -netdev tap,br=NETWORK,helper=PATH. It asks vnetd for a port and
// passes its descriptor on.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/vnetd/vnetd/pkg/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr, dial)
	stop()
	os.Exit(code)
}

// dial connects to vnetd.
func dial(ctx context.Context) (*client.Client, error) { return client.Dial(ctx) }
