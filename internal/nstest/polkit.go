package nstest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// polkitd is where Debian has it.
const polkitd = "/usr/lib/polkit-1/polkitd"

// StartPolkit starts a polkitd on the bus of StartBus that knows vnetd's actions
// and rules, as they are in the source tree. It is ended with the test.
func StartPolkit(t TB) {
	t.Helper()
	root, err := Root()
	if err == nil {
		err = errors.Join(
			withFile("/usr/share/polkit-1/actions", filepath.Join(root, "configs/org.vnetd1.policy"), "org.vnetd1.policy"),
			withFile("/usr/share/polkit-1/rules.d", filepath.Join(root, "configs/org.vnetd1.rules"), "50-org.vnetd1.rules"),
		)
	}
	if err != nil {
		t.Fatalf("installing vnetd's polkit actions: %v", err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), polkitd, "--no-debug")
	complaints := new(syncBuffer)
	cmd.Stdout, cmd.Stderr = complaints, complaints
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting polkitd: %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	Eventually(t, startLimit, "polkitd is on the bus", func() error {
		err := command(t.Context(), "busctl", "--address="+busAddress, "call", "org.freedesktop.DBus", "/",
			"org.freedesktop.DBus", "GetNameOwner", "s", "org.freedesktop.PolicyKit1")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, complaints)
		}
		return nil
	})
}

// withFile puts a copy of a directory in its place, with a file added.
func withFile(dir, file, name string) error {
	private := "/run/with" + dir
	if err := os.MkdirAll(private, 0o755); err != nil {
		return err
	}
	if err := command(context.Background(), "cp", "-a", dir+"/.", private); err != nil {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(private, name), data, 0o644); err != nil {
		return err
	}
	return unix.Mount(private, dir, "", unix.MS_BIND, "")
}

// User is an account of the test's namespaces.
type User struct {
	Name   string
	UID    uint32
	Groups []string // beside the one of its own; those that are not there are made
}

// NewUsers adds accounts to /etc/passwd and /etc/group of the test's namespaces.
func NewUsers(t TB, users ...User) {
	t.Helper()
	if err := newUsers(users); err != nil {
		t.Fatalf("adding users: %v", err)
	}
}

func newUsers(users []User) error {
	passwd, err1 := os.ReadFile("/etc/passwd")
	group, err2 := os.ReadFile("/etc/group")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	var accounts strings.Builder
	members := make(map[string][]string)
	var names []string
	for _, u := range users {
		fmt.Fprintf(&accounts, "%s:x:%d:%d::/:/bin/sh\n", u.Name, u.UID, u.UID)
		group = fmt.Appendf(group, "%s:x:%d:\n", u.Name, u.UID)
		for _, g := range u.Groups {
			if members[g] == nil {
				names = append(names, g)
			}
			members[g] = append(members[g], u.Name)
		}
	}
	for i, g := range names {
		group = fmt.Appendf(group, "%s:x:%d:%s\n", g, 64000+i, strings.Join(members[g], ","))
	}
	return errors.Join(
		replaceFile("/etc/passwd", append(passwd, accounts.String()...)),
		replaceFile("/etc/group", group),
	)
}

// replaceFile puts a file with other content in the place of one.
func replaceFile(path string, data []byte) error {
	private := "/run/replaced" + path
	if err := os.MkdirAll(filepath.Dir(private), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(private, data, 0o644); err != nil {
		return err
	}
	return unix.Mount(private, path, "", unix.MS_BIND, "")
}

// Become has a command run as the user, in the groups that NewUsers gave it.
func (u User) Become(cmd *exec.Cmd) error {
	out, err := exec.Command("id", "-G", u.Name).Output()
	if err != nil {
		return fmt.Errorf("looking up the groups of %s: %w", u.Name, err)
	}
	c := &syscall.Credential{Uid: u.UID, Gid: u.UID}
	for _, text := range strings.Fields(string(out)) {
		gid, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return err
		}
		c.Groups = append(c.Groups, uint32(gid))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c}
	return nil
}
