// Package libvirtcorpus fetches the files with which libvirt tests its own
// network schema, so that vnetd can be held against them. Tests only.
//
// They are part of Debian's source package libvirt. It is downloaded by apt,
// which checks its signatures, from where the machine gets its packages, and
// kept in .cache. Nothing of it is part of vnetd.
package libvirtcorpus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Dir returns the directory tests of libvirt's sources, as far as it is about
// networks. The first time it downloads them, which needs apt, tar, xz and the
// machine's package mirror. The name of its parent is libvirt-VERSION.
func Dir(ctx context.Context) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cache := filepath.Join(root, ".cache", "libvirt-src")
	if dir := found(cache); dir != "" {
		return dir, nil
	}
	if err := fetch(ctx, cache); err != nil {
		return "", fmt.Errorf("downloading the source package libvirt: %w", err)
	}
	if dir := found(cache); dir != "" {
		return dir, nil
	}
	return "", fmt.Errorf("the source package libvirt has no tests/networkxml2xmlin")
}

// found returns the directory if it was downloaded, "" if not.
func found(cache string) string {
	dirs, err := filepath.Glob(filepath.Join(cache, "libvirt-*", "tests", "networkxml2xmlin"))
	if err != nil || len(dirs) == 0 {
		return ""
	}
	return filepath.Dir(dirs[0])
}

// moduleRoot returns the directory of go.mod: a test runs in that of its
// package, somewhere below.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// fetch downloads and unpacks into cache. Two that run at once both do; what
// one has put in place stays.
func fetch(ctx context.Context, cache string) (err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	tarball, err := download(ctx, work)
	if err != nil {
		return err
	}
	if _, err := run(ctx, work, "tar", "--extract", "--file", tarball, "--wildcards",
		"libvirt-*/tests/network*", "libvirt-*/tests/virnetworkport*"); err != nil {
		return err
	}
	trees, err := filepath.Glob(filepath.Join(work, "libvirt-*", "tests"))
	if err != nil || len(trees) != 1 {
		return fmt.Errorf("%s has %d directories of tests, want 1", filepath.Base(tarball), len(trees))
	}
	tree := filepath.Dir(trees[0])
	if err := os.Rename(tree, filepath.Join(cache, filepath.Base(tree))); err != nil && found(cache) == "" {
		return err
	}
	return nil
}

// run executes a program in dir and returns its output. The error has what it
// wrote to its standard error.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("running %s: %w", name, err)
	}
	return string(out), nil
}
