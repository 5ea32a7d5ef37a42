package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/cmd/vnetctl/libvirt"
)

// libvirtHost is a host on which a libvirt ran, by files that libvirtd 9.0.0 wrote:
// default was active there, lab was not.
func libvirtHost(t *testing.T) host {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS("../../test/testdata/libvirt")); err != nil {
		t.Fatal(err)
	}
	return host{root: root}
}

// write replaces a file of the host.
func (h host) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.path(path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path(path), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestImportLibvirt(t *testing.T) {
	s := newSession(t)
	s.quietly("undefine", "lab")
	s.quietly("stop", "default")
	s.quietly("undefine", "default")
	s.host = host{root: t.TempDir()} // where no libvirt ever was
	s.run("import-libvirt")
	s.host = libvirtHost(t)
	for _, line := range []string{"import-libvirt --if-pending", "import-libvirt --dry-run", "list", "import-libvirt --dry-run --json"} {
		s.run(line)
	}
	s.server.SetImportPending(true)
	for _, line := range []string{"import-libvirt --if-pending", "import-libvirt --if-pending", "list", "import-libvirt", "import-libvirt what"} {
		s.run(line)
	}
	s.check()
}

// Files that can't be used are named, each with its reason, and keep nobody else
// from being taken over.
func TestImportLibvirtRefused(t *testing.T) {
	s := newSession(t) // has networks default and lab of its own
	s.host = libvirtHost(t)
	s.host.write(t, libvirt.NetworksDir+"/broken.xml", "<network><name>broken</name>")
	s.host.write(t, libvirt.NetworksDir+"/leases.xml", "<network><name>leases</name><bridge name='virbr9'/></network>")
	s.host.write(t, libvirt.DnsmasqDir+"/virbr9.status", "[{")
	s.host.write(t, libvirt.NetworksDir+"/fine.xml", "<network><name>fine</name><bridge name='virbr5'/></network>")
	s.run("import-libvirt")
	s.run("list")
	s.check()
}

// What libvirt would go by is gone after the import, its definitions are not, and
// neither is what mirrors vnetd's networks there.
func TestImportLibvirtRetires(t *testing.T) {
	s := newSession(t)
	s.quietly("undefine", "lab")
	s.quietly("stop", "default")
	s.quietly("undefine", "default")
	s.host = libvirtHost(t)
	s.host.write(t, libvirt.RunDir+"/default.pid", "1\n")
	const mirror = "<network><name>mirrored</name><forward mode='bridge'/><bridge name='virbr6'/>" +
		"<metadata><m:mirror xmlns:m='urn:vnetd:mirror:1' of='00'/></metadata></network>"
	s.host.write(t, libvirt.NetworksDir+"/mirrored.xml", mirror)
	s.host.write(t, libvirt.RunDir+"/mirrored.xml", "<networkstatus>"+mirror+"</networkstatus>")
	s.quietly("import-libvirt")
	var left []string
	err := filepath.WalkDir(s.host.root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left = append(left, strings.TrimPrefix(path, s.host.root))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = "/etc/libvirt/qemu/networks/default.xml /etc/libvirt/qemu/networks/lab.xml " +
		"/etc/libvirt/qemu/networks/mirrored.xml /run/libvirt/network/mirrored.xml " +
		"/var/lib/libvirt/dnsmasq/virbr0.status /var/lib/libvirt/dnsmasq/virbr7.status"
	if got := strings.Join(left, " "); got != want {
		t.Errorf("left are %s, want %s", got, want)
	}
}

// TestMirrorHook is libvirtd's hook, for a mirror and for a network of libvirtd's own.
func TestMirrorHook(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{
		"mirror-libvirt hook default port-created begin - < testdata/hook.xml", "port list",
		"mirror-libvirt hook default port-created begin - < testdata/hook.xml",
		"mirror-libvirt hook default port-deleted begin - < testdata/hook.xml", "port list",
		"mirror-libvirt hook default port-deleted begin - < testdata/hook.xml",
		"mirror-libvirt hook default start begin - < testdata/hook.xml",
		"stop default",
		"mirror-libvirt hook default start begin - < testdata/hook.xml",
		"mirror-libvirt hook default port-created begin - < testdata/hook.xml",
		"mirror-libvirt hook default stopped end - < testdata/hook.xml",
		"mirror-libvirt hook own start begin - < testdata/hookown.xml",
		"mirror-libvirt hook own start begin - < testdata/broken.txt",
	} {
		s.run(line)
	}
	if err := s.server.Leave(); err != nil {
		t.Fatal(err)
	}
	s.run("mirror-libvirt hook default start begin - < testdata/hook.xml")
	s.check()
}
