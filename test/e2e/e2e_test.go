package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// limit ends what would hang; nothing is expected to take that long.
const limit = 4 * time.Minute

func TestStory(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, step := range story.New(t).Steps() {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			if err := step.Do(ctx, t.Logf); err != nil {
				t.Fatalf("%s: %v", step.Title, err)
			}
			cancel()
		}
	})
}

// vnetctl runs a command that must succeed and returns what it prints.
func vnetctl(t *testing.T, l *nstest.Lab, args ...string) string {
	t.Helper()
	r := l.Vnetctl(t.Context(), args...)
	if err := r.Err(); err != nil {
		t.Fatalf("vnetctl %s: %v", strings.Join(args, " "), err)
	}
	return r.Stdout
}

// testdata is the path of a shared file.
func testdata(t *testing.T, name string) string {
	t.Helper()
	path, err := story.Testdata(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// startNetwork defines and starts one of the networks of testdata.
func startNetwork(t *testing.T, l *nstest.Lab, name string) {
	t.Helper()
	vnetctl(t, l, "define", testdata(t, name+".xml"))
	vnetctl(t, l, "start", name)
}

// state is what vnetd makes in the kernel: links, and rules of both families.
func state(t *testing.T) string {
	t.Helper()
	links, err := nstest.Links(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return links + rules(t, "iptables-save") + rules(t, "ip6tables-save")
}

// rules lists the rules of a family.
func rules(t *testing.T, save string) string {
	t.Helper()
	listing, err := nstest.Rules(t.Context(), save)
	if err != nil {
		t.Fatal(err)
	}
	return listing
}

// same fails the test where two states differ.
func same(t *testing.T, what, want, got string) {
	t.Helper()
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-before +after):\n%s", what, diff)
	}
}

// sameAsListed compares the IPv4 rules with nat-network.rules.
func sameAsListed(t *testing.T) {
	t.Helper()
	same(t, "the rules of nat-network", listed(t), rules(t, "iptables-save"))
}

// listed are the rules that libvirt installs for nat-network, when it is alone.
func listed(t *testing.T) string {
	t.Helper()
	want, err := os.ReadFile(testdata(t, story.Network+".rules"))
	if err != nil {
		t.Fatal(err)
	}
	return string(want)
}

// defined are the files that define networks.
func defined(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/etc/vnetd/networks/*")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// leaseOf runs a DHCP client on the eth0 of a namespace, once, and returns the
// address it was given.
func leaseOf(t *testing.T, ns *nstest.NS, name string) string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "lease")
	const body = "#!/bin/sh\n[ \"$1\" != bound ] || { ip addr add $ip/$mask dev $interface; echo $ip; }\n"
	if err := os.WriteFile(script, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	out := ns.Exec("busybox", "udhcpc", "-f", "-q", "-n", "-t", "20", "-T", "1", "-i", "eth0", "-x", "hostname:"+name, "-s", script)
	return strings.TrimSpace(out)
}
