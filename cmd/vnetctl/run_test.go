package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/cmd/vnetctl/daemon"
	"github.com/vnetd/vnetd/internal/golden"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/client/clienttest"
)

// now is 2026-03-01 12:00:00 in a zone that is one hour ahead of UTC.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600))

// session runs command lines against a fake vnetd and writes down what they do.
type session struct {
	t          *testing.T
	server     *clienttest.Server
	transcript bytes.Buffer
	colour     bool
	width      int
	asks       bool
	host       host
	cluster    func(ctx context.Context, req api.ClusterRequest) (any, error) // nil: there is none
	became     [][]string                                                     // the programs that this one would have become, with VNET_FDS
}

// newSession starts a fake vnetd with the active network default and the
// inactive network lab.
func newSession(t *testing.T) *session {
	s := &session{t: t, server: clienttest.New(t)}
	s.quietly("define", "testdata/default.xml")
	s.quietly("start", "default")
	s.quietly("define", "testdata/lab.xml")
	return s
}

// quietly runs a command that must succeed, without writing it down.
func (s *session) quietly(args ...string) {
	s.t.Helper()
	if code, _, stderr := s.execute(s.t.Context(), "", args); code != 0 {
		s.t.Fatalf("vnetctl %v: exit %d: %s", args, code, stderr)
	}
}

// run runs a command line, split at blanks, and writes it down. After " < "
// stands a file for standard input.
func (s *session) run(line string) {
	s.t.Helper()
	command, file, _ := strings.Cut(line, " < ")
	var stdin string
	if file != "" {
		stdin = readFile(s.t, file)
	}
	code, stdout, stderr := s.execute(s.t.Context(), stdin, strings.Fields(command))
	s.note(line, code, stdout, stderr)
}

// note writes a command and what it did down.
func (s *session) note(line string, code int, stdout, stderr string) {
	fmt.Fprintf(&s.transcript, "$ vnetctl %s\n%s", line, stdout)
	for _, text := range strings.Split(strings.TrimSuffix(stderr, "\n"), "\n") {
		if text != "" {
			fmt.Fprintf(&s.transcript, "stderr: %s\n", text)
		}
	}
	if code != 0 {
		fmt.Fprintf(&s.transcript, "exit: %d\n", code)
	}
	s.transcript.WriteByte('\n')
}

// execute runs vnetctl as the command does, but for its surroundings.
func (s *session) execute(ctx context.Context, stdin string, args []string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, args, s.environment(strings.NewReader(stdin), &out, &errs))
	return code, out.String(), errs.String()
}

func (s *session) environment(stdin io.Reader, stdout, stderr io.Writer) environment {
	return environment{
		stdin: stdin, stdout: stdout, stderr: stderr, dial: func(ctx context.Context) (*client.Client, error) { return daemon.Dial(ctx, false) },
		now: func() time.Time { return now }, version: "0.9.0", colour: s.colour, width: s.width, asks: s.asks, host: s.host,
		become: func(path string, argv, env []string) error {
			s.became = append(s.became, append([]string{path}, argv...), env[len(env)-2:])
			return errors.New("the test goes on")
		},
		cluster: s.askCluster,
	}
}

// check compares the transcript with the golden file.
func (s *session) check() {
	s.t.Helper()
	golden.Compare(s.t, filepath.Join("testdata", strings.ReplaceAll(s.t.Name(), "/", "-")+".golden"), s.transcript.String())
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestNetworks(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"list", "list --json",
		"enable default", "start lab", "list",
		"disable default", "stop lab", "undefine default", "list",
		"stop default", "undefine lab", "list", "--json list",
		"define testdata/default.xml", "create - < testdata/lab.xml", "create --json - < testdata/web.xml",
		"define --json testdata/default.xml", "list",
	} {
		s.run(line)
	}
	s.check()
}

// TestDailyVerbs holds what scripts and people type every day.
func TestDailyVerbs(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"list --active", "list --inactive --names", "list --mode nat", "list --all --name", "list --names --json", "--version",
		"start default", "start default --if-needed", "start none --if-needed", "stop lab", "stop lab --if-needed", "stop none --if-needed",
		"restart lab", "restart lab", "reload",
	} {
		s.run(line)
	}
	s.server.SetState("default", "degraded", "dns: port 53 is in use")
	s.run("start default --if-needed --wait 10ms")
	s.server.SetLeases("default",
		clienttest.Lease{Address: "192.0.2.9", Prefix: 24, MAC: "00:00:5e:00:53:0a", Hostname: "web1"},
		clienttest.Lease{Address: "192.0.2.8", Prefix: 24, MAC: "00:00:5e:00:53:0b", Hostname: "web2"})
	for _, line := range []string{
		"leases --mac 00-00-5E-00-53-0A", "leases default --name WEB2", "leases --name web3", "leases --port none",
		"port create default --name web1 --mac 00:00:5e:00:53:0a --lifetime persistent",
		"leases --port web1", "port show WEB1", "stop default", "stop default", "start default", "stop default --force",
	} {
		s.run(line)
	}
	s.check()
}

// TestStopAsks checks that a person at a terminal is asked before guests are cut
// off.
func TestStopAsks(t *testing.T) {
	s := newSession(t)
	s.asks = true
	s.quietly("port", "create", "default", "--name", "web1", "--lifetime", "persistent")
	for _, answer := range []string{"", "n\n", "y\n"} {
		code, stdout, stderr := s.execute(t.Context(), answer, []string{"stop", "default"})
		s.note("stop default, answered "+strconv.Quote(answer), code, stdout, stderr)
	}
	s.check()
}

// TestNarrow checks that columns are left out on a narrow terminal, and words
// never broken.
func TestNarrow(t *testing.T) {
	s := newSession(t)
	s.server.SetLeases("default", clienttest.Lease{
		Interface: "virbr0", Expiry: now.Add(26 * time.Hour).Unix(), MAC: "00:00:5e:00:53:0a", Address: "192.0.2.100", Prefix: 24,
		Hostname: "web1", ClientID: "ff:9f:6e:85:24:00:02:00:00:ab:11:05:6c:3c:7f:0a:93:2d:01",
	})
	s.quietly("port", "create", "default", "--name", "web1", "--address", "192.0.2.100", "--mac", "00:00:5e:00:53:0a", "--lifetime", "persistent")
	for _, s.width = range []int{140, 80, 30} {
		s.transcript.WriteString(strings.Repeat("-", s.width) + "\n")
		for _, line := range []string{"list", "status", "leases", "port list"} {
			s.run(line)
		}
	}
	s.check()
}

func TestNetworkErrors(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"start none", "stop none", "enable none", "cat none", "status none", "undefine none",
		"start default", "stop lab",
		"define testdata/none.xml", "define - < testdata/broken.txt", "define - < testdata/noname.xml",
		"define testdata/otheruuid.xml", "define testdata/samebridge.xml",
	} {
		s.run(line)
	}
	s.check()
}

// TestDefine defines networks anew, active and inactive, with what harms guests and
// what does not.
func TestDefine(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"define testdata/default.xml", "define testdata/titled.xml", "define testdata/titled.xml --new",
		"define testdata/moved.xml", "define --json testdata/moved.xml", "status", "status default", "cat default", "define testdata/moved.xml --now", "status",
		"define testdata/titled.xml --pending", "define testdata/titled.xml --now --pending", "define - --new < testdata/web.xml",
	} {
		s.run(line)
	}
	s.check()
}

func TestUpdate(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"define testdata/default.xml", "update default add ip-dhcp-host testdata/host.xml", "cat default",
		"start default", "update default add dns-host - --live --config < testdata/host.xml", "cat default", "cat default --inactive",
		"update default add dns-host testdata/none.xml", "update default delete dns-host testdata/host.xml",
		"update default bend dns-host testdata/host.xml", "update none add dns-host testdata/host.xml",
		"update default add dns-host", "stop default", "update default add dns-host testdata/host.xml --live",
	} {
		s.run(line)
	}
	s.check()
}

func TestPlan(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"plan testdata/web.xml", "plan - --json < testdata/web.xml", "plan testdata/samebridge.xml", "plan testdata/broken.txt", "plan testdata/none.xml", "plan", "list",
	} {
		s.run(line)
	}
	s.check()
}

func TestCat(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"cat lab", "cat lab --json", "cat --inactive lab", "cat 11111111-2222-4333-8444-555555555555",
		"undefine default", "cat default --inactive",
	} {
		s.run(line)
	}
	s.check()
}

func TestStatus(t *testing.T) {
	s := newSession(t)
	s.quietly("create", "testdata/web.xml")
	s.server.SetState("web", "degraded", "dns: listening on virbr2\nport 53 is in use")
	s.server.SetLeases("default",
		clienttest.Lease{Address: "192.0.2.9", Prefix: 24, MAC: "00:00:5e:00:53:0a", Hostname: "ev\x1b[2Jil", Expiry: now.Add(time.Hour).Unix()})
	s.server.SetConditions(
		clienttest.Condition{
			Kind: "drop-rule", Severity: "error", Networks: []string{"default"}, Since: "2026-03-01T10:00:00Z",
			Message:  "a rule drops packets of guests on virbr0 before the networks' rules are asked",
			Evidence: "iptables -A FORWARD -i virbr0 -j DROP", Remedy: "iptables -D FORWARD -i virbr0 -j DROP",
		},
		clienttest.Condition{
			Kind: "clock-jump", Severity: "warning", Networks: []string{}, Since: "2026-03-01T10:00:00Z",
			Message: "the clock was set", Evidence: "by 1h", Remedy: "timedatectl",
		},
		clienttest.Condition{
			Kind: "drop-policy", Severity: "info", Networks: []string{}, Since: "2026-03-01T10:00:00Z",
			Message: "FORWARD drops what no rule accepts; the networks' rules stand before that", Evidence: "iptables -P FORWARD DROP",
			Remedy: "iptables -P FORWARD ACCEPT",
		},
	)
	s.hold("port create default --name one", func() {
		s.hold("port create default --name two --ifname tap2", func() {
			for _, line := range []string{"status", "status --json", "status default", "status default --json", "status web"} {
				s.run(line)
			}
			s.colour = true
			for _, line := range []string{"status", "status default"} {
				s.run(line)
			}
		})
	})
	s.check()
}

func TestLeases(t *testing.T) {
	s := newSession(t)
	s.run("leases")
	s.run("leases default --json")
	s.run("leases lab")
	s.run("start lab")
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	s.server.SetLeases("default",
		clienttest.Lease{
			Interface: "virbr0", Expiry: at(3599 * time.Second), MAC: "00:00:5e:00:53:0a", Address: "192.0.2.100", Prefix: 24,
			Hostname: "web1", ClientID: "01:00:00:5e:00:53:0a",
		},
		clienttest.Lease{Interface: "virbr0", Expiry: at(26 * time.Hour), MAC: "00:00:5e:00:53:0b", Address: "192.0.2.20", Prefix: 24},
		clienttest.Lease{Interface: "virbr0", MAC: "00:00:5e:00:53:0c", Address: "192.0.2.30", Prefix: 24, Hostname: "ev\x1b[2Jil\n"},
		clienttest.Lease{
			Interface: "virbr0", Expiry: at(-time.Second), Type: 1, IAID: "7", Address: "2001:db8::a", Prefix: 64, ClientID: "00:03",
		},
	)
	s.server.SetLeases("lab", clienttest.Lease{
		Interface: "virbr1", Expiry: at(125 * time.Minute), MAC: "00:00:5e:00:53:0d", Address: "198.51.100.2", Prefix: 24, Hostname: "db",
	})
	for _, line := range []string{
		"leases", "leases lab", "leases default", "leases --json", "leases none",
		"leases export lab", "leases export lab --json", "leases export", "leases export none",
		"leases import default testdata/dnsmasq.leases", "leases import default - --json < testdata/dnsmasq.leases",
		"leases import default testdata/lab.xml", "leases import default testdata/none", "leases import default",
	} {
		s.run(line)
	}
	s.check()
}

// signalWriter closes held at the first write.
type signalWriter struct {
	bytes.Buffer
	held chan struct{}
}

func (w *signalWriter) Write(b []byte) (int, error) {
	if w.Len() == 0 {
		close(w.held)
	}
	return w.Buffer.Write(b)
}

// hold runs a port create, works while it holds the port, interrupts it, and
// writes it down.
func (s *session) hold(line string, work func()) {
	s.t.Helper()
	ctx, interrupt := context.WithCancel(s.t.Context())
	defer interrupt()
	var stdout bytes.Buffer
	stderr := &signalWriter{held: make(chan struct{})}
	codeC := make(chan int, 1)
	go func() {
		codeC <- run(ctx, strings.Fields(line), s.environment(strings.NewReader(""), &stdout, stderr))
	}()
	select {
	case <-stderr.held:
	case code := <-codeC:
		s.t.Fatalf("vnetctl %s: exit %d before the interrupt", line, code)
	}
	work()
	interrupt()
	s.note(line, <-codeC, stdout.String(), stderr.String())
}

func TestPorts(t *testing.T) {
	s := newSession(t)
	s.run("port list")
	s.run("port list --json")
	s.server.SetCounts(api.Counts{Networks: []api.NetworkCounts{{Name: "default", Ports: []api.PortCounts{
		{UUID: "00000000-0000-4000-8000-000000000001", Receive: api.Traffic{Bytes: 1 << 33, Packets: 6 << 20, Drops: 7}, Transmit: api.Traffic{Bytes: 512, Packets: 4, Errors: 1}},
	}}}})
	s.hold("port create default", func() {
		s.hold("port create virbr0 --json --name web1 --alias www,db --mac 00:00:5e:00:53:77 --ifname tap7 "+
			"--queues 2 --vnet-hdr --isolated --id vm/0 --address 192.0.2.7,2001:db8::7", func() {
			for _, line := range []string{
				"port list", "port list --json", "port list lab", "port list none",
				"port show vnet0", "port show tap7 --json", "port show none",
				"port create default --mac 00:00:5e:00:53:77", "port create none", "port create lab",
				"port delete tap7", "port delete tap7", "port list default",
			} {
				s.run(line)
			}
		})
	})
	s.check()
}

// TestForwards makes forwards, of a network and of a port.
func TestForwards(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"forward list", "forward list --json", "forward add default 8080:web1:80", "forward add default 8080:web2:80",
		"forward add default 192.0.2.1:9000-9009:[00:00:5e:00:53:01]/udp --from 198.51.100.0/24,203.0.113.7 --json",
		"forward add lab [2001:db8::1]:8080:[2001:db8::5]", "forward add none 1:x", "forward list", "forward list lab --json", "forward list none",
		"forward show 8080", "forward show default:8080/tcp --json", "forward show 81", "forward delete 8080/tcp 192.0.2.1:9000-9009 81", "forward list",
		"port create default --lifetime persistent --forward 2222:22,127.0.0.1:80/udp",
	} {
		s.run(line)
	}
	s.check()
}

// TestPersistentPort makes a port that stays when the command ends.
func TestPersistentPort(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"port create default --lifetime persistent --owner 4001 --ifname vnet-web --queues 2 --id web",
		"port list", "port delete vnet-web", "port list",
	} {
		s.run(line)
	}
	s.check()
}

// TestRun looks at the command lines that programs are run with. The fake vnetd
// has one descriptor beside those that are handed over.
func TestRun(t *testing.T) {
	s := newSession(t)
	for _, tt := range []struct{ line, argv string }{
		{"run default -- true -m 1", "/usr/bin/true true -m 1 -netdev tap,id=vnet0,fds=FD -device virtio-net-pci,netdev=vnet0,mac=MAC0"},
		{
			"run -n default:queues=2,name=web,vhost=off -n default:mac=00:00:5e:00:53:77 -- true",
			"/usr/bin/true true -netdev tap,id=vnet0,fds=FD:FD -device virtio-net-pci,netdev=vnet0,mac=MAC0,mq=on,vectors=6" +
				" -netdev tap,id=vnet1,fds=FD -device virtio-net-pci,netdev=vnet1,mac=00:00:5e:00:53:77",
		},
		{
			"run default -- true -netdev tap,id=a,fds=@n0@ -device e1000,netdev=a,mac=@mac0@,host_mtu=@mtu0@ @ifname0@ @queues0@",
			"/usr/bin/true true -netdev tap,id=a,fds=FD -device e1000,netdev=a,mac=MAC0,host_mtu=1500 vnet0 1",
		},
	} {
		s.became = nil
		if code, _, stderr := s.execute(t.Context(), "", strings.Fields(tt.line)); code != exitFailed || !strings.Contains(stderr, "the test goes on") {
			t.Fatalf("%s: exit %d: %s", tt.line, code, stderr)
		}
		fds := strings.Fields(strings.TrimPrefix(s.became[1][0], "VNET_FDS="))
		macs := strings.Fields(strings.TrimPrefix(s.became[1][1], "VNET_MACS="))
		want := strings.ReplaceAll(tt.argv, "MAC0", macs[0])
		for _, list := range fds {
			want = strings.Replace(want, "fds="+shape(list), "fds="+list, 1)
		}
		got := strings.Join(s.became[0], " ")
		if i := strings.Index(got, " true"); i >= 0 {
			got = "/usr/bin/true" + got[i:]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.line, diff)
		}
		s.quietly("port", "delete", "vnet0")
		if len(fds) > 1 {
			s.quietly("port", "delete", "vnet1")
		}
	}
	if code, _, stderr := s.execute(t.Context(), "", strings.Fields("run default:vhost=off -- true @v0@")); code != exitFailed || !strings.Contains(stderr, "vhost-net") {
		t.Errorf("without vhost-net: exit %d: %s", code, stderr)
	}
	if code, _, _ := s.execute(t.Context(), "", strings.Fields("run nowhere -- true")); code != exitNotFound {
		t.Errorf("on no network: exit %d", code)
	}
}

// shape is a list of descriptors with FD in the place of each.
func shape(list string) string {
	return strings.TrimSuffix(strings.Repeat("FD:", strings.Count(list, ":")+1), ":")
}

// TestEdit changes a definition by an editor that makes a mistake first.
func TestEdit(t *testing.T) {
	s := newSession(t)
	t.Setenv("VISUAL", "")
	t.Setenv("TMPDIR", t.TempDir())
	edit := func(script, answers string, code int, says string) {
		t.Helper()
		t.Setenv("EDITOR", script)
		// A file, as a terminal is one: the editor gets it as it is.
		file := filepath.Join(t.TempDir(), "answers")
		if err := os.WriteFile(file, []byte(answers), 0o600); err != nil {
			t.Fatal(err)
		}
		stdin, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		var stdout, stderr bytes.Buffer
		got := run(t.Context(), []string{"edit", "lab"}, s.environment(stdin, &stdout, &stderr))
		if got != code || !strings.Contains(stderr.String(), says) {
			t.Errorf("editor %q: exit %d: %s\nwant %d and %q", script, got, &stderr, code, says)
		}
	}
	edit("true", "", exitOK, "left as it is")
	edit("false", "", exitFailed, "running the editor")
	mistake := "sed -i -e 's|</network>||;t' -e 's|$||'"
	edit(mistake, "n\n", exitFailed, "the text is kept in ")
	edit(mistake, "", exitFailed, "Edit again? [Y/n]")
	// The second time the same editor puts right what it did the first time.
	edit("sh -c 'grep -q /network $1 && sed -i s,/network,/notwork, $1 || sed -i s,/notwork,/network, $1' x", "y\n", exitOK, "left as it is")
	edit("sed -i 's|</name>|</name><domain name=\"lab.example\"/>|'", "", exitOK, "is changed")

	dir := t.TempDir()
	editing, changed := filepath.Join(dir, "editing"), filepath.Join(dir, "changed")
	go func() {
		for !exists(editing) {
			time.Sleep(time.Millisecond)
		}
		s.execute(t.Context(), "", []string{"set", "lab", "domain=theirs.example"})
		_ = os.WriteFile(changed, nil, 0o600)
	}()
	edit("sh -c 'touch "+editing+"; until test -e "+changed+"; do sleep 0.01; done; sed -i s/lab.example/mine.example/ $1' x",
		"", exitFailed, "was changed by somebody else meanwhile: the text is kept in ")
	if _, xml, _ := s.execute(t.Context(), "", []string{"cat", "lab", "--inactive"}); !strings.Contains(xml, "theirs.example") {
		t.Errorf("what somebody else changed meanwhile is lost:\n%s", xml)
	}
	if kept, _ := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "*", "network.xml")); !slices.ContainsFunc(kept, func(file string) bool {
		return strings.Contains(readFile(t, file), "mine.example")
	}) {
		t.Errorf("the edited text is in none of %q", kept)
	}
}

// exists reports whether there is such a file.
func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// TestCompletion asks for what the shells ask for.
func TestCompletion(t *testing.T) {
	s := newSession(t)
	for args, want := range map[string]string{
		"start ":          "default\tactive lab\tinactive",
		"update ":         "default\tactive lab\tinactive",
		"update lab ":     "add add-first add-last delete modify",
		"update lab add ": "ip-dhcp-host ip-dhcp-range dns-host dns-txt dns-srv portgroup forward-interface vnetd-record",
		"start lab ":      "",
		"define ":         "",
		"port show ":      "",
		"rename ":         "default\tactive lab\tinactive",
		"rename lab ":     "",
		"new web --mode ": "nat route isolated open bridge",
		"new web --from ": "default\tactive lab\tinactive",
	} {
		_, stdout, _ := s.execute(t.Context(), "", append([]string{"__complete"}, strings.Split(args, " ")...))
		lines := strings.Split(stdout, "\n:")[0]
		if got := strings.TrimPrefix(strings.Join(strings.Split(lines, "\n"), " "), ":4"); strings.TrimSpace(got) != want && !strings.HasPrefix(stdout, ":") {
			t.Errorf("%q completes to %q, want %q", args, got, want)
		}
	}
	for args, want := range map[string]string{"set lab ": "\nmtu=\t", "set lab mtu=1400 domain=x ": "\nguard=\t", "explain ": "\ndrop-rule\t"} {
		if _, stdout, _ := s.execute(t.Context(), "", append([]string{"__complete"}, strings.Split(args, " ")...)); !strings.Contains(stdout, want) {
			t.Errorf("%q completes to %q, want %q among it", args, stdout, want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, stdout, _ := s.execute(t.Context(), "", []string{"completion", shell}); code != 0 || !strings.Contains(stdout, "vnetctl") {
			t.Errorf("completion for %s: exit %d, %d bytes", shell, code, len(stdout))
		}
	}
}

// TestPortHeld checks that the port's file is open while port create runs and
// closed after it: the fake vnetd has one copy itself.
func TestPortHeld(t *testing.T) {
	s := newSession(t)
	s.hold("port create default --ifname held0", func() {
		if n := openFiles(t, "held0"); n != 2 {
			t.Errorf("%d copies of the file while it is held, want 2", n)
		}
	})
	if n := openFiles(t, "held0"); n != 1 {
		t.Errorf("%d copies of the file after the interrupt, want 1", n)
	}
}

// openFiles counts the descriptors of this process that are the memory file
// with the name.
func openFiles(t *testing.T, name string) (count int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "/memfd:"+name+" ") {
			count++
		}
	}
	return count
}

// TestAbsence checks that who finds no vnetd is told why, and what helps.
func TestAbsence(t *testing.T) {
	s := newSession(t)
	if err := s.server.Leave(); err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{
		"",
		"LoadState=not-found\nActiveState=inactive\nSubState=dead\nUnitFileState=\n",
		"LoadState=masked\nActiveState=inactive\nSubState=dead\nUnitFileState=masked\n",
		"LoadState=loaded\nActiveState=inactive\nSubState=dead\nUnitFileState=disabled\n",
		"LoadState=loaded\nActiveState=inactive\nSubState=dead\nUnitFileState=enabled\n",
		"LoadState=loaded\nActiveState=failed\nSubState=failed\nUnitFileState=enabled\n",
		"LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nUnitFileState=enabled\n",
		"LoadState=loaded\nActiveState=activating\nSubState=start\nUnitFileState=enabled\n",
		"LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\n",
	} {
		s.host.show = func() string { return shown }
		fmt.Fprintf(&s.transcript, "# %s\n", strings.Join(strings.Fields(shown), " "))
		s.run("list")
	}
	s.check()
}

func TestUsage(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"", "frobnicate", "port", "port frobnicate", "net-list", "net-autostart one", "lst", "port lsit",
		"ports", "rm lab", "show default", "net-port-list default", "domifaddr vm1", "attach-interface vm1", "port rm x", "net-start lab",
		"list --active --inactive", "list --mode natt", "leases --mac x", "start default --wait x",
		"tcpdump", "capture", "capture nobody", "capture default --count 0", "capture default --time 0s", "capture default --size 0", "capture default -w x --json",
		"capture default hosst 1", "trace", "trace nobody", "trace default --time 0s", "trace a b c d",
		"start", "start a b", "list --frobnicate", "list a",
		"cat", "port create", "port create default --mac x", "port create default --mac 00:00:5e:00:53:01:02:03",
		"port create default --queues 0", "port create default --queues x", "port create default --address x",
		"port create default --lifetime long", "port create default --owner nobody-of-that-name",
		"run", "run default", "run -- true", "run default:colour=red -- true", "run default:queues=0 -- true", "run :queues=2 -- true",
		"run default:forward=80:web1:80 -- true", "forward add default", "forward add default 8080:80", "forward add default web1:80", "forward add default 8080:web1:0",
		"forward delete", "forward add --help",
		"cluster", "cluster lst", "cluster init", "cluster init lab", "cluster init lab --endpoint https://h1:2379 --insecure --certificates", "cluster add-host h1", "cluster add-host h1 --underlay x",
		"cluster add-host", "cluster hosts x", "cluster forget", "cluster export", "cluster restore", "cluster restore a b", "cluster restore testdata/none.json", "cluster restore testdata/broken.txt", "cluster hosts", "where", "where a b",
		"monitor a b", "edit", "version x", "mirror-libvirt", "mirror-libvirt on x", "--help", "cluster --help", "cluster add-host --help", "where --help", "port create --help", "run --help", "mirror-libvirt --help", "help nope", "help port shw", "help start", "completion tcsh", "completion",
	} {
		s.run(line)
	}
	s.check()
}

// TestWithoutXML makes, copies, changes and renames networks in words. What a subnet that
// is left to vnetd becomes, the fake does not know.
func TestWithoutXML(t *testing.T) {
	s := newSession(t)
	s.host = wellHost(t)
	write(t, s.host, "/sys/class/net/br9/bridge/stp_state", "0\n", 0o644)
	for _, line := range []string{
		"new web", "cat web --inactive", "new web", "new same --subnet 192.0.2.0/24", "list --names",
		"new six --subnet 198.51.100.0/24 --ipv6 auto --domain six.example --dev eno1 --start --enable", "cat six",
		"new public --mode nat --subnet none --ipv6 2001:db8:1::/64 --json", "cat public", "new routed --mode route --ipv6 auto", "cat routed", "new alone --mode isolated --subnet 203.0.113.1/29", "cat alone",
		"new lan --mode bridge --dev eno2", "cat lan", "new office --mode bridge --dev br9", "cat office",
		"copy default other", "cat other", "new third --from default --mode isolated --subnet 198.51.100.128/25 --domain third.example", "cat third",
		"set web mode=route subnet=203.0.113.0/24 domain=web.example dns=192.0.2.53,2001:db8::53 mtu=1400 isolated=yes guard=strict", "set web dhcp=203.0.113.9-203.0.113.99 inbound-ipv6=no", "cat web",
		"set web domain= dns= mtu= isolated= guard= inbound-ipv6= dhcp=off", "cat web", "set six ipv6=none subnet=198.51.100.0/24 --json", "set six domain=7.example --now",
		"define testdata/bound.xml", "copy bound free", "cat free",
		"rename lab lab2", "list", "rename six seven", "rename lab2 web", "rename none some", "rename lab2",
		"new a --mode natt", "new a --subnet fd00::/64", "new a --subnet 192.168.1.9/24", "new a --subnet 192.168.1.0/31", "new a --subnet 0.0.0.0/24", "new a --ipv6 fe80::/64", "new a --ipv6 x", "new a --mode open --dev eno1", "new a --from none", "new",
		"set web", "set web colour=red", "set web mtu", "set web mtu=1 mtu=2", "set web mtu=big", "set web dhcp=x", "set web dhcp=10.0.0.1-10.0.0.9", "set web dns=x", "set web guard=high",
		"renumber default --subnet 10.7.0.0/24 --plan", "renumber default --subnet 10.7.0.0/24", "cat default --inactive", "renumber default --subnet fd00:7::/64 --now", "renumber default --subnet 10.8.0.0/30",
		"renumber lan", "renumber default --subnet x", "renumber public --subnet 10.9.0.0/24", "renumber default --now --plan", "renumber none", "renumber",
		"set web isolated=maybe", "set default subnet=auto", "set default subnet=none", "set none mtu=1400", "set --help", "new --help",
	} {
		s.run(line)
	}
	s.check()
}

// TestExplain needs no vnetd: the documents tell.
func TestExplain(t *testing.T) {
	s := &session{t: t}
	for _, line := range []string{"explain reverse-path", "explain disk-read-only", "explain subnet-overlap --json", "explain bad-luck"} {
		s.run(line)
	}
	if code, stdout, stderr := s.execute(t.Context(), "", []string{"explain"}); code != 0 || !strings.Contains(stdout, "bridge-orphaned") {
		t.Errorf("explain: exit %d, %s%s", code, stdout, stderr)
	}
	s.check()
}

func TestVersion(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{"log-level", "log-level debug", "log-level --json", "log-level loud"} {
		s.run(line)
	}
	s.run("version")
	s.run("version --json")
	if err := s.server.Leave(); err != nil {
		t.Fatal(err)
	}
	s.run("version")
	s.run("version --json")
	s.run("list")
	s.check()
}

func TestExitCodes(t *testing.T) {
	s := newSession(t)
	for name, want := range map[string]int{
		"NotFound": 3, "Exists": 5, "Invalid": 1, "InvalidState": 1, "Conflict": 5, "Busy": 1, "Denied": 4,
		"LimitExceeded": 1, "Unsupported": 1, "Internal": 1, "FromTheFuture": 1,
		"org.freedesktop.DBus.Error.AccessDenied": 4, "org.freedesktop.DBus.Error.ServiceUnknown": 1,
	} {
		s.server.Fail("Start", name, "no")
		if code, _, stderr := s.execute(t.Context(), "", []string{"start", "lab"}); code != want {
			t.Errorf("%s: exit %d, want %d: %s", name, code, want, stderr)
		}
	}
}

func TestInterrupted(t *testing.T) {
	s := newSession(t)
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	code, stdout, stderr := s.execute(ctx, "", []string{"start", "lab"})
	if code != 1 || stdout != "" || stderr != "vnetctl: interrupted\n" {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
}

// TestOutputFails has a full disk behind standard output.
func TestOutputFails(t *testing.T) {
	s := newSession(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, line := range []string{"list", "list --json", "status", "cat lab", "port create default", "version"} {
		var stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(line), s.environment(strings.NewReader(""), full, &stderr))
		if code != 1 || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("%s: exit %d: %s", line, code, stderr.String())
		}
	}
}

// TestJSONParses checks that every printing verb prints one JSON value.
func TestJSONParses(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"list", "status", "status lab", "cat lab", "leases", "port list", "version", "define testdata/web.xml",
	} {
		_, stdout, stderr := s.execute(t.Context(), "", strings.Fields(line+" --json"))
		if dec := json.NewDecoder(strings.NewReader(stdout)); dec.Decode(new(any)) != nil || dec.More() {
			t.Errorf("%s: not one JSON value: %q %s", line, stdout, stderr)
		}
	}
}

func TestDialFails(t *testing.T) {
	env := environment{stdout: io.Discard, dial: func(context.Context) (*client.Client, error) {
		return nil, &client.Error{Kind: api.NotRunning, Message: "vnetd is not running"}
	}}
	var stderr bytes.Buffer
	env.stderr = &stderr
	if code := run(t.Context(), []string{"list"}, env); code != 1 || stderr.String() != "vnetctl: vnetd is not running\n" {
		t.Errorf("exit %d: %s", code, stderr.String())
	}
	env.dial = func(context.Context) (*client.Client, error) { return nil, errors.New("odd") }
	if code := run(t.Context(), []string{"version"}, env); code != 1 {
		t.Errorf("exit %d of version", code)
	}
}

func TestRemainder(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Millisecond: "0s", 59 * time.Second: "59s", time.Minute: "1m", 3599 * time.Second: "59m",
		time.Hour: "1h00m", 26*time.Hour + 59*time.Minute: "1d02h", 500 * 24 * time.Hour: "500d00h",
	} {
		if got := remainder(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}

func TestReach(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"reach web1 db1 tcp/5432", "reach web1 closed 22/tcp", "reach web1 unclear", "reach web1 nobody 80", "reach web1 closed udp/53 --json",
		"reach web1 db1 icmp --format {{.verdict}}", "reach web1 db1 tcp", "reach web1 db1 gre/1", "reach web1 db1 tcp/0", "reach web1", "reach web1 db1 --format {{",
	} {
		s.run(line)
	}
	s.check()
}
