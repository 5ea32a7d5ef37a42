package libvirt

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// monolithicURI is that of libvirtd, and never of virtqemud: that one finds vnetd by
// itself.
const monolithicURI = "qemu:///system?mode=legacy"

// virshLimit ends a virsh whose libvirtd does not answer.
const virshLimit = time.Minute

// errNoLibvirtd: there is no libvirtd that answers.
var errNoLibvirtd = errors.New("libvirtd does not answer")

// virshCommand is one command of virsh on libvirtd.
func virshCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "virsh", append([]string{"--quiet", "--connect", monolithicURI}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Second
	return cmd
}

// virsh runs a command on libvirtd and returns what it prints.
func virsh(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, virshLimit)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := virshCommand(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	switch said := strings.TrimSpace(stderr.String()); {
	case err == nil:
		return stdout.String(), nil
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%w: virsh is not installed", errNoLibvirtd)
	case strings.Contains(said, "failed to connect"):
		return "", fmt.Errorf("%w: %s", errNoLibvirtd, said)
	default:
		return "", fmt.Errorf("virsh %s: %w: %s", strings.Join(args, " "), err, said)
	}
}

// mirrored is a network of libvirtd.
type mirrored struct {
	name, uuid        string
	digest            string // of the definition; empty: it is no mirror
	live              string // digest of what is active
	active, autostart bool
	persistent        bool // there is a definition
}

func (m *mirrored) isMirror() bool { return m.digest != "" }

// farewell are the commands by which a network of libvirtd's own ends.
func (m *mirrored) farewell() string {
	undefine := "virsh -c qemu:///system net-undefine " + m.name
	if m.active {
		return "virsh -c qemu:///system net-destroy " + m.name + " and " + undefine
	}
	return undefine
}

// readNetworks reads documents that stand one after the other.
func readNetworks(text string) ([]networkDocument, error) {
	var docs []networkDocument
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		var doc networkDocument
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading libvirtd's networks: %w", err)
		}
		docs = append(docs, doc)
	}
}

// libvirtdNetworks lists libvirtd's networks.
func libvirtdNetworks(ctx context.Context) ([]mirrored, error) {
	var lists [4][]string
	for i, which := range [][]string{{"--all"}, nil, {"--all", "--autostart"}, {"--all", "--persistent"}} {
		out, err := virsh(ctx, "", append([]string{"net-list", "--uuid"}, which...)...)
		if err != nil {
			return nil, err
		}
		lists[i] = strings.Fields(out)
	}
	all, active, autostart, persistent := lists[0], lists[1], lists[2], lists[3]
	var networks []mirrored
	for _, uuid := range all {
		// First what is active, then the definition; they are one where it is inactive.
		out, err := virsh(ctx, "", "net-dumpxml "+uuid+"; net-dumpxml --inactive "+uuid)
		if err != nil {
			return nil, err
		}
		docs, err := readNetworks(out)
		if err == nil && len(docs) != 2 {
			err = fmt.Errorf("virsh printed %d documents, not the active and the inactive one", len(docs))
		}
		if err != nil {
			return nil, fmt.Errorf("network %s of libvirtd: %w", uuid, err)
		}
		networks = append(networks, mirrored{
			name: docs[1].Name, uuid: docs[1].UUID, live: docs[0].digest(), digest: docs[1].digest(),
			active: slices.Contains(active, uuid), autostart: slices.Contains(autostart, uuid),
			persistent: slices.Contains(persistent, uuid),
		})
	}
	return networks, nil
}

// give gives libvirtd the mirror m in the place of old, which is nil where there is
// none, and reports whether anything was to do.
func (m *mirror) give(ctx context.Context, old *mirrored) (changed bool, err error) {
	var now mirrored
	if old != nil {
		now = *old
	}
	var steps [][]string
	if now.active && (!m.active || now.live != m.digest) {
		steps, now.active = append(steps, []string{"net-destroy", m.uuid}), false
	}
	if now.digest != m.digest || !now.persistent {
		steps = append(steps, []string{"net-define", "/dev/stdin"})
	}
	if now.autostart != m.autostart {
		autostart := []string{"net-autostart", m.uuid}
		if !m.autostart {
			autostart = append(autostart, "--disable")
		}
		steps = append(steps, autostart)
	}
	if m.active && !now.active {
		steps = append(steps, []string{"net-start", m.uuid})
	}
	for _, step := range steps {
		if _, err := virsh(ctx, m.document, step...); err != nil {
			return true, err
		}
	}
	return len(steps) > 0, nil
}

// remove takes a mirror out of libvirtd.
func (m *mirrored) remove(ctx context.Context) error {
	var steps []string
	if m.active {
		steps = append(steps, "net-destroy")
	}
	if m.persistent {
		steps = append(steps, "net-undefine")
	}
	for _, step := range steps {
		if _, err := virsh(ctx, "", step, m.uuid); err != nil {
			return err
		}
	}
	return nil
}
