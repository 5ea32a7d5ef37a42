// Package cluster is vnetctl's way to the store of a cluster: by a program of its own, so
// that vnetctl is small and starts at once.
package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vnetd/vnetd/pkg/api"
)

// program is what reaches the store.
const program = "vnet-cluster"

// find finds the program: beside this one, where both were built, or where both are
// installed.
func find() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	for _, place := range []string{".", "../libexec/vnetd", "../lib/vnetd"} {
		path := filepath.Join(dir, place, program)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", &api.Error{Kind: api.Unsupported, Err: fmt.Errorf("%s, by which clusters are reached, is not installed: %w", program, fs.ErrNotExist)}
}

// Call has the program do something. Errors have the kinds of package api.
func Call(ctx context.Context, req api.ClusterRequest) (json.RawMessage, error) {
	path, err := find()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), &out, &said
	runErr := cmd.Run()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var a api.ClusterAnswer
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		return nil, errors.Join(fmt.Errorf("%s gave no answer: %w", path, errors.Join(runErr, err)), errors.New(said.String()))
	}
	if a.Error != "" {
		return nil, &api.Error{Kind: a.Kind, Err: errors.New(a.Error)}
	}
	return a.Result, nil
}
