package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// journalStderr is a file that the logger takes for the journal's end.
func journalStderr(t *testing.T) *os.File {
	t.Helper()
	stderr, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	var s unix.Stat_t
	if err := unix.Fstat(int(stderr.Fd()), &s); err != nil {
		t.Fatal(err)
	}
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", s.Dev, s.Ino))
	return stderr
}

// TestSystemdJournal has systemd's own journal take a message, and finds it by its
// fields.
func TestSystemdJournal(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const settings = "/run/systemd/journald.conf.d/test.conf"
		for _, dir := range []string{filepath.Dir(settings), "/run/log/journal", filepath.Dir(journalSocket)} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(settings, []byte("[Journal]\nStorage=volatile\nReadKMsg=no\nForwardToSyslog=no\nAudit=no\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		// The journal looks where it is in the tree of control groups, of which the
		// test's own /sys has none.
		nstest.Exec(t, "mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
		journald := exec.Command("/lib/systemd/systemd-journald")
		if err := journald.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = journald.Process.Kill(); _ = journald.Wait() })
		nstest.Eventually(t, time.Minute, "the journal listens", func() error {
			_, err := os.Stat(journalSocket)
			return err
		})
		log := newLogger(journalStderr(t), slog.LevelInfo)
		log.Info("lease bound", "network", "default", "ip", "192.0.2.7", "hostname", "two\nlines")
		nstest.Eventually(t, time.Minute, "the message is found", func() error {
			out, err := exec.Command("journalctl", "-D", "/run/log/journal", "-o", "json", "--no-pager",
				"MESSAGE_ID="+messageIDs["lease bound"], "VNET_NETWORK=default").CombinedOutput()
			if err != nil || !strings.Contains(string(out), `"VNET_IP":"192.0.2.7"`) || !strings.Contains(string(out), `"VNET_HOSTNAME":"two\nlines"`) {
				return fmt.Errorf("%v: %s", err, out)
			}
			return nil
		})
	})
}

// TestJournal has the logger write to a journal that is none.
func TestJournal(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		if err := os.MkdirAll(filepath.Dir(journalSocket), 0o755); err != nil {
			t.Fatal(err)
		}
		stderr := journalStderr(t)
		level := new(slog.LevelVar)
		log := newLogger(stderr, level)
		log.Info("before there is a journal", "network", "default")
		if text, _ := os.ReadFile(stderr.Name()); !strings.Contains(string(text), `msg="before there is a journal" network=default`) {
			t.Errorf("without a journal: %q", text)
		}
		journald, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: journalSocket, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer journald.Close()
		read := func() string {
			t.Helper()
			b := make([]byte, 1<<16)
			n, err := journald.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			return string(b[:n])
		}
		log.With("network", "default").Warn("lease bound", "mac", "52:54:00:00:00:01", "error", errors.New("two\nlines"))
		want := "MESSAGE=lease bound network=default mac=52:54:00:00:00:01 error=\"two\\nlines\"\nPRIORITY=4\nSYSLOG_IDENTIFIER=vnetd\n" +
			"MESSAGE_ID=" + messageIDs["lease bound"] + "\nVNET_NETWORK=default\nVNET_MAC=52:54:00:00:00:01\n" +
			"VNET_ERROR\n\x09\x00\x00\x00\x00\x00\x00\x00two\nlines\n"
		if got := read(); got != want {
			t.Errorf("the journal was told\n%q, want\n%q", got, want)
		}
		log.Debug("not now")
		level.Set(slog.LevelDebug)
		log.WithGroup("a").Debug("now", "b-c", strings.Repeat("x", 1<<20))
		if got := read(); !strings.Contains(got, "PRIORITY=7\n") || !strings.Contains(got, "\nVNET_A_B_C=xxx") {
			t.Errorf("the journal was told %.200q", got)
		}
	})
}

// Text goes to what is not the journal's.
func TestNoJournal(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "1:2")
	var b bytes.Buffer
	newLogger(&b, slog.LevelInfo).Info("hello", "network", "x")
	if !strings.Contains(b.String(), "level=INFO msg=hello network=x") {
		t.Errorf("text is %q", b.String())
	}
}

// allSource is the text of all files that are no tests.
func allSource(t *testing.T) string {
	t.Helper()
	files, err := exec.Command("git", "ls-files", "../../*.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for name := range strings.FieldsSeq(string(files)) {
		if strings.HasSuffix(name, "_test.go") || filepath.Base(name) == "messages.go" {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
	}
	return source.String()
}

// TestMessageIDs holds the catalogue to the messages that there are, and
// docs/logging.md to the catalogue.
func TestMessageIDs(t *testing.T) {
	source := allSource(t)
	doc, err := os.ReadFile("../../docs/logging.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for message, id := range messageIDs {
		start, _, lease := strings.Cut(message, "lease ")
		if !lease && !strings.Contains(source, `"`+message+`"`) || lease && start != "" {
			t.Errorf("nobody logs %q", message)
		}
		if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(id) || seen[id] {
			t.Errorf("%q has the MESSAGE_ID %q, want a new one of 32 hexadecimal digits", message, id)
		}
		seen[id] = true
		if !strings.Contains(string(doc), "| `"+id+"` | "+message+" |") {
			t.Errorf("docs/logging.md does not list %s as %q", id, message)
		}
	}
	if rows := strings.Count(string(doc), "\n| `") - 12; rows != len(messageIDs) {
		t.Errorf("docs/logging.md lists %d messages, there are %d", rows, len(messageIDs))
	}
}

// TestCatalog has the journal read what `journalctl -x` tells of each message, and
// holds it to fields that messages have.
func TestCatalog(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "usr/lib/systemd/catalog")
	text, err := os.ReadFile("../../configs/vnetd.catalog")
	if err := errors.Join(err, os.MkdirAll(dir, 0o755), os.MkdirAll(filepath.Join(root, "var/lib/systemd/catalog"), 0o755),
		os.WriteFile(filepath.Join(dir, "vnetd.catalog"), text, 0o644)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("journalctl", "--root="+root, "--update-catalog").CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("journalctl --update-catalog: %v: %s", err, out)
	}
	out, err := exec.Command("journalctl", "--root="+root, "--dump-catalog").Output()
	if err != nil {
		t.Fatal(err)
	}
	entries := strings.Split(string(out), "-- ")[1:]
	explained := map[string]bool{}
	for _, entry := range entries {
		id, rest, _ := strings.Cut(entry, "\n")
		_, body, _ := strings.Cut(rest, "\n\n")
		explained[id] = strings.HasPrefix(rest, "Subject: ") && strings.TrimSpace(body) != ""
	}
	for message, id := range messageIDs {
		if !explained[id] {
			t.Errorf("configs/vnetd.catalog does not explain %s, %q", id, message)
		}
	}
	if len(entries) != len(messageIDs) {
		t.Errorf("configs/vnetd.catalog has %d entries, there are %d messages", len(entries), len(messageIDs))
	}
	source := allSource(t)
	for _, m := range regexp.MustCompile(`@VNET_(\w+)@`).FindAllStringSubmatch(string(text), -1) {
		if key := strings.ToLower(m[1]); !strings.Contains(source, `"`+key+`"`) {
			t.Errorf("no message has the field %s", m[0])
		}
	}
}
