package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/client/clienttest"
)

// asHelper in the environment makes the test binary the helper itself.
const asHelper = "VNET_BRIDGE_HELPER_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asHelper) != "" {
		main()
	}
	os.Exit(m.Run())
}

// newServer starts a fake vnetd with the active network default on br0.
func newServer(t *testing.T) *clienttest.Server {
	t.Helper()
	s := clienttest.New(t)
	c, err := client.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.CreateNetwork(t.Context(), "<network><name>default</name><bridge name='br0'/></network>"); err != nil {
		t.Fatal(err)
	}
	return s
}

// socketPair returns the ends of a Unix socket pair as files.
func socketPair(t *testing.T, kind int) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// execHelper runs the helper as QEMU does, with extra as descriptors 3, 4 and
// so on, and returns its exit code and what it said on stderr.
func execHelper(t *testing.T, args []string, extra ...*os.File) (code int, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asHelper+"=1", "SUDO_USER=x", "LC_ALL=xx_XX.UTF-8", "QEMU_AUDIO_DRV=none")
	cmd.ExtraFiles = extra
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if out.Len() != 0 {
		t.Errorf("output on stdout: %s", out.String())
	}
	return cmd.ProcessState.ExitCode(), errs.String()
}

// receive reads the helper's message and returns its data and its descriptors.
func receive(t *testing.T, socket *os.File) (data []byte, files []*os.File) {
	t.Helper()
	data, oob := make([]byte, 16), make([]byte, unix.CmsgSpace(4*8))
	n, oobn, _, _, err := unix.Recvmsg(int(socket.Fd()), data, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return data[:n], files
}

func TestHelper(t *testing.T) {
	tests := map[string]struct {
		args []string
		want map[string]any
	}{
		"as QEMU execs it": {
			[]string{"--use-vnet", "--fd=3", "--br=default"},
			map[string]any{"network": "default", "vnet_hdr": true, "lifetime": "fd"},
		},
		"as libvirt execs it": {
			[]string{"--use-vnet", "--br=br0", "--fd=3"},
			map[string]any{"network": "br0", "vnet_hdr": true, "lifetime": "fd"},
		},
		"from a shell with options": {
			[]string{"--mac=00:00:5e:00:53:42", "--name=web1", "--fd", "3", "--br", "default"},
			map[string]any{
				"network": "default", "vnet_hdr": false, "lifetime": "fd", "mac": "00:00:5e:00:53:42", "name": "web1",
			},
		},
		"default bridge": {
			[]string{"--fd=3"},
			map[string]any{"network": "br0", "vnet_hdr": false, "lifetime": "fd"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			ours, theirs := socketPair(t, unix.SOCK_STREAM)
			if code, stderr := execHelper(t, test.args, theirs); code != 0 || stderr != "" {
				t.Fatalf("exit %d: %s", code, stderr)
			}
			if diff := cmp.Diff([]map[string]any{test.want}, s.Requests()); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
			checkMessage(t, s, ours)
			// The helper is gone, and so is our copy of its end: nothing may follow.
			theirs.Close()
			if data, files := receive(t, ours); len(data)+len(files) != 0 {
				t.Errorf("a second message: %v, %v", data, files)
			}
		})
	}
}

// checkMessage checks that the message is one zero byte with vnetd's file.
func checkMessage(t *testing.T, s *clienttest.Server, socket *os.File) {
	t.Helper()
	data, files := receive(t, socket)
	if !bytes.Equal(data, []byte{0}) || len(files) != 1 {
		t.Fatalf("data %v with %d files, want one zero byte with one file", data, len(files))
	}
	defer files[0].Close()
	want, err := s.PortFile("vnet0").Stat()
	if err != nil {
		t.Fatal(err)
	}
	got, err := files[0].Stat()
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(want, got) {
		t.Error("the file is not vnetd's")
	}
}

func TestHelperFails(t *testing.T) {
	newServer(t)
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ours, theirs := socketPair(t, unix.SOCK_STREAM)
	_, datagram := socketPair(t, unix.SOCK_DGRAM)
	deaf, broken := socketPair(t, unix.SOCK_STREAM)
	deaf.Close()
	extra := []*os.File{theirs, file, datagram, broken}
	for args, want := range map[string]string{
		"--fd=3 --br=none":    `no network has the name, UUID or bridge "none"`,
		"--fd=4":              "--fd=4: the descriptor is not a socket",
		"--fd=5":              "--fd=5: the descriptor is not a Unix stream socket",
		"--fd=6":              "passing the port to QEMU: broken pipe",
		"--fd=99":             "--fd=99: the descriptor is not open",
		"--fd=7":              "--fd=7: the descriptor is not",
		"--fd=0":              "--fd=0: a standard stream is not QEMU's socket",
		"--fd=2":              "--fd=2: a standard stream is not QEMU's socket",
		"--fd=-1":             "--fd=N is missing",
		"--fd=x":              "invalid value",
		"":                    "--fd=N is missing",
		"--fd=3 --br=":        "--br is empty",
		"--fd=3 --mac=x":      "not a MAC address",
		"--fd=3 --mac=1:2":    "not a MAC address",
		"--fd=3 more":         `unexpected argument "more"`,
		"--fd=3 --frobnicate": "flag provided but not defined",
	} {
		code, stderr := execHelper(t, strings.Fields(args), extra...)
		if code != 1 || !strings.HasPrefix(stderr, "vnet-bridge-helper: ") || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d: %s, want %s", args, code, stderr, want)
		}
		if strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: not one line: %s", args, stderr)
		}
	}
	theirs.Close()
	if data, files := receive(t, ours); len(data)+len(files) != 0 {
		t.Errorf("a message in spite of failures: %v, %v", data, files)
	}
}

func TestHelperWithoutVnetd(t *testing.T) {
	s := newServer(t)
	_, theirs := socketPair(t, unix.SOCK_STREAM)
	if err := s.Leave(); err != nil {
		t.Fatal(err)
	}
	if code, stderr := execHelper(t, []string{"--fd=3"}, theirs); code != 1 || stderr != "vnet-bridge-helper: vnetd is not running\n" {
		t.Errorf("no service: exit %d: %s", code, stderr)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	if code, stderr := execHelper(t, []string{"--fd=3"}, theirs); code != 1 || !strings.Contains(stderr, "vnetd cannot be reached") {
		t.Errorf("no bus: exit %d: %s", code, stderr)
	}
}

// TestFilesClosed runs the helper in this process and counts its files after a
// success and after a failure.
func TestFilesClosed(t *testing.T) {
	newServer(t)
	ours, theirs := socketPair(t, unix.SOCK_STREAM)
	opts := options{fd: int(theirs.Fd()), bridge: "default"}
	if err := help(t.Context(), opts, dial); err != nil {
		t.Fatal(err)
	}
	_, files := receive(t, ours)
	for _, file := range files {
		file.Close()
	}
	ours.Close()
	if err := help(t.Context(), opts, dial); !errors.Is(err, unix.EPIPE) {
		t.Errorf("error %v, want EPIPE", err)
	}
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "/memfd:") {
			count[strings.Fields(target)[0]]++
		}
	}
	// The fake vnetd has one copy of each itself.
	if diff := cmp.Diff(map[string]int{"/memfd:vnet0": 1, "/memfd:vnet1": 1}, count); diff != "" {
		t.Errorf("open files (-want +got):\n%s", diff)
	}
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := run(context.Background(), []string{"--help"}, &stdout, &stderr, dial)
	if code != 0 || stderr.Len() != 0 || !strings.Contains(stdout.String(), "-use-vnet") {
		t.Errorf("exit %d: %s%s", code, stdout.String(), stderr.String())
	}
}

func TestParseArgs(t *testing.T) {
	want := options{vnetHdr: true, fd: 5, bridge: "lab", name: "a", aliases: []string{"b", "c"}, mac: net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 1}}
	args := []string{"--mac=00:00:5e:00:53:01", "--name", "a", "--alias=b", "--alias", "c", "--use-vnet", "--fd=5", "--br=lab"}
	got, err := parseArgs(args, new(bytes.Buffer))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(options{})); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
}
