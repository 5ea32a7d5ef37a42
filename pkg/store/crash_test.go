package store_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/store"
)

// envServe makes the test binary a DHCP server with its state in that folder.
const envServe = "VNETD_STORE_SERVE"

// envRounds is how many rounds TestKill has, crashRounds without it.
const (
	envRounds   = "VNETD_CRASH_ROUNDS"
	crashRounds = "3"
)

// exchanges is how many clients, half of them of either family, are served or
// about to be in one round.
const exchanges = 2000

// serverLimit bounds the start of a server, and a load.
const serverLimit = 2 * time.Minute

// The link of the server: large enough for new clients in every round.
var (
	link4 = netip.MustParsePrefix("10.16.0.1/12")
	link6 = netip.MustParsePrefix("2001:db8:1::1/64")
	relay = netip.MustParseAddr("10.31.255.254")
)

const crashLease = 24 * time.Hour

func TestMain(m *testing.M) {
	if root := os.Getenv(envServe); root != "" {
		if err := serve(root); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serve is the server's process: a store and the servers of both families on br0.
// It says "ready", and on SIGUSR1 has the kernel refuse to write to the disk.
func serve(root string) error {
	log := slog.New(slog.DiscardHandler)
	s, err := store.Open(dirsIn(root), log)
	if err != nil {
		return err
	}
	hw := net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 1}
	told := func(err error) { fmt.Println("store:", err) }
	v4, err := v4.Open(v4.Config{
		Settings: dhcpd.Settings{
			Network:   "crash",
			Interface: "br0",
			MAC:       hw,
			Server:    link4.Addr(),
			Prefix:    link4,
			Ranges:    []dhcpd.Range{{Start: netip.MustParseAddr("10.17.0.0"), End: netip.MustParseAddr("10.30.255.255")}},
			LeaseTime: crashLease,
			Store:     s.Leases(uuid),
			OnStore:   told,
			Logger:    log,
		},
	})
	if err != nil {
		return err
	}
	v6, err := v6.Open(v6.Config{
		Settings: dhcpd.Settings{
			Network:   "crash",
			Interface: "br0",
			MAC:       hw,
			Server:    link6.Addr(),
			Prefix:    link6,
			Ranges:    []dhcpd.Range{{Start: netip.MustParseAddr("2001:db8:1::1:0"), End: netip.MustParseAddr("2001:db8:1::ffff:0")}},
			LeaseTime: crashLease,
			Store:     s.Leases(uuid),
			OnStore:   told,
			Logger:    log,
		},
	})
	if err != nil {
		return err
	}
	refuse := make(chan os.Signal, 1)
	signal.Notify(refuse, unix.SIGUSR1)
	ended := make(chan error)
	go func() { ended <- v4.Run(context.Background()) }()
	go func() { ended <- v6.Run(context.Background()) }()
	fmt.Println("ready")
	for {
		select {
		case err := <-ended:
			return err
		case <-refuse:
			fmt.Println("refusing:", refuseSync())
		}
	}
}

// refuseSync makes fsync and fdatasync fail with EIO in every thread of this
// process, for good, as they do on a disk that breaks.
func refuseSync() error {
	const returnErrno, allow = 0x00050000, 0x7fff0000 // SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FSYNC, Jt: 2},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FDATASYNC, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: allow},
		{Code: unix.BPF_RET | unix.BPF_K, K: returnErrno | uint32(unix.EIO)},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setModeFilter, allThreads = 1, 1 // SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, allThreads, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return errno
	}
	return nil
}

// daemon is a process of serve.
type daemon struct {
	t    *testing.T
	cmd  *exec.Cmd
	said chan string // what it prints, line by line; closed when it has ended
}

// startDaemon starts a server and waits until it serves.
func startDaemon(t *testing.T, root string) *daemon {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envServe+"="+root)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, cmd: cmd, said: make(chan string, 64)}
	go func() {
		defer close(d.said)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			d.said <- lines.Text()
		}
	}()
	t.Cleanup(d.kill)
	d.expect("ready")
	return d
}

// expect waits for the server to say something that begins so.
func (d *daemon) expect(text string) {
	d.t.Helper()
	deadline := time.After(serverLimit)
	for {
		select {
		case line, ok := <-d.said:
			switch {
			case !ok:
				d.t.Fatalf("the server ended before it said %q", text)
			case strings.HasPrefix(line, text):
				return
			}
		case <-deadline:
			d.t.Fatalf("the server does not say %q", text)
		}
	}
}

// kill ends the server as a crash does.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

// makeLink makes br0 and a relay's host on it, behind which all clients are.
func makeLink(t *testing.T) *crowd {
	t.Helper()
	nstest.IP(t, "link add br0 address 00:00:5e:00:53:01 type bridge")
	nstest.IP(t, "addr add "+link4.String()+" dev br0")
	nstest.IP(t, "addr add "+link6.String()+" dev br0 nodad")
	nstest.IP(t, "link set br0 up")
	guest := nstest.Guest(t, "br0", "g1", "")
	guest.IP("addr add " + relay.String() + "/12 dev eth0")
	nstest.Eventually(t, serverLimit, "the relay has a link-local address", func() error {
		if got := guest.IP("-6 addr show dev eth0"); strings.Contains(got, "tentative") || !strings.Contains(got, "fe80::") {
			return errors.New(got)
		}
		return nil
	})
	return newCrowd(t, guest)
}

// TestKill kills the server at a random moment of 2,000 exchanges, again and again:
// what a client was told is in the store when it starts again, and no address is
// given to two clients, ever.
func TestKill(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		rounds, err := strconv.Atoi(cmp.Or(os.Getenv(envRounds), crashRounds))
		if err != nil {
			t.Fatalf("%s: %v", envRounds, err)
		}
		c := makeLink(t)
		root := t.TempDir()
		for round := range rounds {
			d := startDaemon(t, root)
			c.begin(exchanges)
			c.run(1 + rand.IntN(exchanges-1))
			d.kill()
			c.drain()
			c.check(root)
			got := c.score()
			t.Logf("round %d: killed after %d acknowledgements, %d of them of addresses had before", round, got.acked, got.again)
		}
	})
}

// TestFailingSync serves on while the disk refuses to write: nobody is told of a
// lease that is not on it, and those told before have theirs when all is well.
func TestFailingSync(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		c := makeLink(t)
		root := t.TempDir()
		d := startDaemon(t, root)
		c.begin(400)
		c.run(200)
		if err := d.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		d.expect("refusing: <nil>")
		c.drain() // what had been on its way
		c.begin(400)
		c.runFor(3 * time.Second)
		switch got := c.score(); {
		case got.acked != 0:
			t.Errorf("%d leases were acknowledged that could not be stored", got.acked)
		case got.offered == 0:
			t.Error("nobody got an offer: the test shows nothing")
		}
		d.expect("store: committing leases")
		d.kill()
		c.check(root)
		startDaemon(t, root)
		c.finish()
		c.drain()
	})
}

// TestFullDisk fills the disk under the store: leases are refused, and given
// again, without a restart, when there is room.
func TestFullDisk(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		c := makeLink(t)
		root := t.TempDir()
		if err := os.Mkdir(dirsIn(root).State, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", dirsIn(root).State, "tmpfs", 0, "size=8m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dirsIn(root).State, unix.MNT_DETACH) })
		d := startDaemon(t, root)
		c.begin(100)
		c.finish()
		filler := filepath.Join(dirsIn(root).State, "filler")
		if err := fill(filler); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("filling the disk: %v", err)
		}
		c.begin(24000) // more than fits into the journal
		c.until("the store refuses", func() bool {
			select {
			case line := <-d.said:
				return strings.Contains(line, "no space left")
			default:
				return false
			}
		})
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		c.finish()
		d.expect("store: <nil>")
		d.kill()
		c.drain()
		c.check(root)
	})
}

// fill writes to a file until there is no room.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	return errors.Join(err, f.Close())
}
