// Command vnet-cluster reaches the store of a cluster for vnetctl(1), which would be larger
// and start later if it did so itself. It reads an api.ClusterRequest from standard input,
// and writes an api.ClusterAnswer to standard output.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/etcd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := json.NewEncoder(os.Stdout).Encode(answer(ctx, os.Stdin))
	stop()
	if err != nil {
		os.Exit(1)
	}
}

// answer does what is asked for.
func answer(ctx context.Context, in io.Reader) api.ClusterAnswer {
	var req api.ClusterRequest
	err := json.NewDecoder(in).Decode(&req)
	var result any
	if err == nil {
		result, err = do(ctx, req)
	}
	var text json.RawMessage
	if err == nil {
		text, err = json.Marshal(result)
	}
	if err != nil {
		return api.ClusterAnswer{Kind: kindOf(err), Error: err.Error()}
	}
	return api.ClusterAnswer{Result: text}
}

// kindOf is the kind of an error.
func kindOf(err error) api.Kind {
	if kind, ok := api.KindOf(err); ok {
		return kind
	}
	_, stranger := errors.AsType[*etcd.CertificateError](err)
	switch {
	case stranger, errors.Is(err, cluster.ErrDenied), errors.Is(err, fs.ErrPermission):
		return api.Denied
	case errors.Is(err, fs.ErrExist):
		return api.Exists
	}
	return api.Internal
}
