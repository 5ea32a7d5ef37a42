package docs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// shims stand in the place of programs by which the hosts of a page reach each other, and
// of systemd, which does not run in a namespace. They lead into the namespaces of the host
// that has the address.
var shims = map[string]string{
	"ssh": `#!/bin/sh -e
host=${1#root@}; shift
exec nsenter --target "$(cat "/usr/lib/hosts/$host")" --mount --net sh -e -c "$*"
`,
	"scp": `#!/bin/sh -e
[ "$1" = -p ] && shift
for last; do :; done
host=${last#root@}; host=${host%%:*}; dir=${last#*:}
while [ $# -gt 1 ]; do
	ssh "root@$host" "cat >'$dir${1##*/}' && chmod $(stat -c %a "$1") '$dir${1##*/}'" <"$1"
	shift
done
`,
	"systemctl": `#!/bin/sh -e
for unit; do :; done
if [ -e "/run/$unit.pid" ]; then
	old=$(cat "/run/$unit.pid")
	kill "$old"
	while readlink "/proc/$old/exe" >/dev/null; do sleep 0.1; done # nobody waits for it
	rm "/run/$unit.pid"
fi
case $1 in
stop) exit ;;
restart) ;;
*) exit 1 ;;
esac
case $unit in
etcd)
	set -a
	. /etc/default/etcd
	setsid runuser -u etcd -- /usr/bin/etcd >/run/etcd.log 2>&1 </dev/null &
	;;
vnetd)
	runuser -u vnetd -- cat /etc/vnetd/cluster/host.key >/dev/null # the service runs as it
	setsid /usr/sbin/vnetd >/run/vnetd.log 2>&1 </dev/null &
	;;
esac
echo $! >"/run/$unit.pid"
`,
}

// runThree runs a page on the first of three hosts at 10.0.0.1 to 10.0.0.3, with etcd and
// vnetd installed on each.
func runThree(t *testing.T, page string) {
	nstest.Run(t, func(t *testing.T) {
		root, err := nstest.Root()
		if err != nil {
			t.Fatal(err)
		}
		install(t, root)
		for name, text := range shims {
			if err := os.WriteFile(filepath.Join("/usr/bin", name), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		nstest.Exec(t, "install", filepath.Join(root, ".cache/etcd/root/usr/bin/etcd"), "/usr/bin/etcd")
		nstest.IP(t, "link add wire type bridge mcast_snooping 0")
		nstest.IP(t, "link set wire up")
		var first *nstest.Host
		for i := range 3 {
			h := nstest.NewHost(t, fmt.Sprintf("h%d", i+1))
			nstest.IP(t, fmt.Sprintf("link add wire%d type veth peer name eth0 netns %s", i+1, h.Name))
			nstest.IP(t, fmt.Sprintf("link set wire%d master wire up", i+1))
			h.IP("link set eth0 up")
			h.IP(fmt.Sprintf("addr add 10.0.0.%d/24 dev eth0", i+1))
			h.Exec("sh", "-ec", fmt.Sprintf(`
useradd --system etcd; systemd-sysusers %[1]s/configs/vnetd.sysusers; install -d -o etcd /var/lib/etcd
mkdir -p /usr/lib/hosts; echo %[2]d >/usr/lib/hosts/10.0.0.%[3]d`, root, h.PID(), i+1))
			t.Cleanup(func() {
				if t.Failed() {
					out, _ := h.Command(t.Context(), "sh", "-c", "tail -n 30 /run/etcd.log /run/vnetd.log").CombinedOutput()
					t.Logf("%s: %s", h.Name, out)
				}
			})
			if first == nil {
				first = h
			}
		}
		for _, b := range blocks(t, page) {
			if b.as == "host" {
				continue
			}
			if out, err := b.runOn(t, first); err != nil {
				t.Fatalf("%s: %v\n%s\nprinted:\n%s", b.where(), err, b.text, out)
			}
		}
	})
}

// runOn executes the block on a host, and returns what it printed.
func (b block) runOn(t *testing.T, h *nstest.Host) (string, error) {
	t.Helper()
	out, err := os.CreateTemp("", "docs")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := h.Command(ctx, "sh", "-eu", "-c", "cd /run; PATH=/usr/sbin:/usr/bin:/sbin:/bin; "+b.text)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	text, readErr := os.ReadFile(out.Name())
	if readErr != nil {
		return "", readErr
	}
	return string(text), err
}
