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
func dial(ctx context.Context) (requester, error) {
	c, err := client.Dial(ctx)
	if err != nil {
		// Not c: a nil *Client in a requester is not a nil requester.
		return nil, err
	}
	return c, nil
}
