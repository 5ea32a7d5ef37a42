package e2espan

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/etcd"
)

// limit only ends tests that would hang.
const limit = time.Minute

// document is the network of the tests. A range and a size of blocks go in.
const document = `<network xmlns:vnetd='urn:vnetd:network:1'><name>apps</name><forward mode='nat'/><bridge name='virbr7' stp='on' delay='0'/><domain name='apps.test' localOnly='yes'/>
<ip address='10.50.0.1' prefix='16'><dhcp><range start='%s' end='%s'/></dhcp></ip>
<vnetd:span cluster='lab' vni='7' block='%d'/><vnetd:guard level='off'/></network>`

// lab is three hosts of a cluster with certificates, and etcd on each.
type lab struct {
	*testing.T
	hosts [3]*nstest.Host
	etcd  [3]*exec.Cmd // nil: it does not run
	bus   [3]*client.Client
	dir   string      // of the administrator's certificates
	store *etcd.Store // the administrator's
	book  book
}

// newLab makes the cluster, in which the first host may define networks. The test's own
// namespace is the wire.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{T: t, dir: t.TempDir()}
	nstest.IP(t, "link add wire type bridge mcast_snooping 0")
	nstest.IP(t, "link set wire up")
	nstest.IP(t, "addr add 10.0.0.254/24 dev wire")
	for i := range l.hosts {
		h := nstest.NewHost(t, fmt.Sprintf("h%d", i+1))
		nstest.IP(t, fmt.Sprintf("link add wire%d type veth peer name eth0 netns %s", i+1, h.Name))
		nstest.IP(t, fmt.Sprintf("link set wire%d master wire up", i+1))
		h.IP("link set eth0 up")
		h.IP(fmt.Sprintf("addr add %s/24 dev eth0", underlay(i)))
		l.hosts[i] = h
	}
	l.administrate("init", "lab", "--certificates")
	for i := range l.hosts {
		l.install(i, filepath.Join(l.dir, "etcd", underlay(i)), "/etc/etcd")
		l.startEtcd(i)
	}
	t.Cleanup(func() {
		for i := range l.etcd {
			l.killEtcd(i)
		}
	})
	l.found()
	cfg, _, err := etcd.Files{CA: l.dir + "/ca.crt", Cert: l.dir + "/admin.crt", Key: l.dir + "/admin.key"}.Load()
	if err == nil {
		// Not by the third host, which is cut off: its server leaves who asks then without an answer for seconds.
		l.store, err = etcd.Open(etcd.Config{Endpoints: endpoints()[:2], TLS: cfg})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.store.Close() })
	for i, h := range l.hosts {
		from := filepath.Join(l.dir, "hosts", h.Name)
		l.install(i, from, "/etc/vnetd/cluster")
		h.Exec("sh", "-ec", "{ cat /etc/vnetd/cluster/vnetd.toml; echo 'session_ttl = \"5s\"'; } >>/etc/vnetd/vnetd.toml")
		h.StartVnetd()
		t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", h.Bus())
		if l.bus[i], err = client.Dial(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.bus[i].Close() })
	}
	return l
}

func underlay(i int) string { return fmt.Sprintf("10.0.0.%d", i+1) }

func endpoints() (all []string) {
	for i := range 3 {
		all = append(all, "https://"+underlay(i)+":2379")
	}
	return all
}

// administrate runs vnetctl cluster as the administrator, on the first host, until it does not
// fail.
func (l *lab) administrate(args ...string) {
	l.Helper()
	all := append([]string{"cluster"}, args...)
	all = append(all, "--dir", l.dir)
	if args[0] == "init" {
		for _, e := range endpoints() {
			all = append(all, "--endpoint", e)
		}
	}
	nstest.Eventually(l, limit, strings.Join(all, " "), func() error {
		return l.hosts[0].Vnetctl(l.Context(), "", all...).Err()
	})
}

// found writes the cluster and its hosts into etcd.
func (l *lab) found() {
	l.Helper()
	l.administrate("init", "lab")
	for i, h := range l.hosts {
		l.administrate("add-host", h.Name, "--underlay", underlay(i), "--may-define")
	}
}

// install brings files to a host, as scp does.
func (l *lab) install(i int, from, to string) {
	l.Helper()
	l.hosts[i].Exec("sh", "-ec", "mkdir -p \"$2\" /var/lib/etcd; cp -p \"$1\"/* \"$2\"", "sh", from, to)
}

// startEtcd starts the server of etcd of a host, with the data that it has.
func (l *lab) startEtcd(i int) {
	l.Helper()
	program, err := nstest.EtcdProgram()
	if err != nil {
		l.Fatal(err)
	}
	l.etcd[i] = l.hosts[i].Command(context.WithoutCancel(l.Context()), "sh", "-ec", "set -a; . /etc/etcd/etcd.env; exec "+program+" --logger zap --log-level error >>/run/etcd.log 2>&1")
	if err := l.etcd[i].Start(); err != nil {
		l.Fatal(err)
	}
}

// killEtcd kills it.
func (l *lab) killEtcd(i int) {
	if l.etcd[i] == nil {
		return
	}
	_ = l.etcd[i].Process.Kill() // sh executes etcd in its own place
	_ = l.etcd[i].Wait()
	l.etcd[i] = nil
}

// part parts a host from all others, or joins it to them again.
func (l *lab) part(i int, apart bool) {
	l.Helper()
	to := "master wire"
	if apart {
		to = "nomaster"
	}
	nstest.IP(l, fmt.Sprintf("link set wire%d %s", i+1, to))
}

// ctl runs vnetctl on a host and fails the test when it fails.
func (l *lab) ctl(i int, stdin string, args ...string) string {
	l.Helper()
	r := l.hosts[i].Vnetctl(l.Context(), stdin, args...)
	if err := r.Err(); err != nil {
		l.Fatalf("h%d: vnetctl %s: %v", i+1, strings.Join(args, " "), err)
	}
	return r.Stdout
}

// define makes the network active on all hosts, each of which has addresses to give.
func (l *lab) define(first, last string, block int) {
	l.Helper()
	l.defineAs(fmt.Sprintf(document, first, last, block))
}

// defineAs is define of a document.
func (l *lab) defineAs(xml string) {
	l.Helper()
	nstest.Eventually(l, limit, "the network is defined", func() error {
		return l.hosts[0].Vnetctl(l.Context(), xml, "define", "-").Err()
	})
	l.ctl(0, "", "start", "apps")
	l.ctl(0, "", "enable", "apps")
	for i := range l.hosts {
		nstest.Eventually(l, limit, fmt.Sprintf("h%d has the network, and a block", i+1), func() error {
			r := l.hosts[i].Vnetctl(l.Context(), "", "list", "--format", "{{.name}} {{.state}} {{.autostart}}")
			if r.Stdout != "apps active true\n" {
				return errors.New(r.Stdout + r.Stderr)
			}
			return nil
		})
	}
	l.settled()
}

// snapshot is what etcd has.
func (l *lab) snapshot() (cluster.Snapshot, cluster.Listing, error) {
	ctx, cancel := context.WithTimeout(l.Context(), 2*time.Second)
	defer cancel()
	list, err := l.store.List(ctx, "/vnetd/1/lab/", 0)
	return cluster.Read("lab", list), list, err
}

// settled waits until all hosts are alive, have blocks, and the store has what each knows.
func (l *lab) settled() {
	l.Helper()
	nstest.Eventually(l, limit, "the cluster is in step", func() error {
		s, _, err := l.snapshot()
		if err != nil {
			return err
		}
		n := 0
		for _, h := range s.Hosts() {
			if h.Alive && h.Joined && h.Blocks > 0 {
				n++
			}
		}
		if n != len(l.hosts) {
			return fmt.Errorf("%d hosts are alive and have blocks: %+v", n, s.Hosts())
		}
		for i := range l.hosts {
			if out := l.hosts[i].Vnetctl(l.Context(), "", "cluster", "status").Stdout; strings.Contains(out, "away") {
				return errors.New(out)
			}
		}
		return nil
	})
}

// cpu is the time of the processor that a process has had.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // of USER_HZ, 100 on every machine
}

// sendSignal sends one to vnetd of a host.
func (l *lab) sendSignal(i int, s syscall.Signal) {
	l.Helper()
	if err := syscall.Kill(l.hosts[i].VnetdPID(), s); err != nil {
		l.Fatal(err)
	}
}

// removals is a watch over entries for guests elsewhere that a host removes.
type removals struct {
	cmd *exec.Cmd
	out strings.Builder
}

// watchRemovals begins one.
func (l *lab) watchRemovals(i int) *removals {
	l.Helper()
	w := &removals{cmd: l.hosts[i].Command(l.Context(), "bridge", "monitor", "fdb")}
	w.cmd.Stdout = &w.out
	if err := w.cmd.Start(); err != nil {
		l.Fatal(err)
	}
	return w
}

var removal = regexp.MustCompile(`(?m)^Deleted .* dev vx7 .*$`)

// end returns which there were.
func (w *removals) end() []string {
	_ = w.cmd.Process.Signal(os.Interrupt) // nsenter executes bridge in its own place
	_ = w.cmd.Wait()
	return removal.FindAllString(w.out.String(), -1)
}
