package netdef_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/test/libvirtcorpus"
)

// exception is a file or an update of libvirt's that is refused here, though
// libvirt's test of its parser accepts it. libvirt refuses it too, elsewhere.
type exception struct{ name, fault string }

// definitionExceptions are refused by Validate. They are parsed and printed
// like the others.
func definitionExceptions() []exception {
	return []exception{
		{"8021Qbh-net", "network/vlan: not allowed in mode private with this virtualport: only ports of a host's bridge, Open vSwitch or hardware have a vlan"},
		{"passthrough-address-crash", "network/forward/address[1]: not allowed in mode passthrough, only in mode hostdev"},
		{"passthrough-pf", "network/ip[1]: not allowed in mode passthrough: the network has no bridge of its own"},
	}
}

// updateExceptions are refused by Update.
func updateExceptions() []exception {
	return []exception{
		{"insert-forward-interface", "network/forward/interface[2]/@dev: 'eth1': only one interface is allowed in mode nat"},
	}
}

// faultOf returns the fault that is expected of a case, "" if none is.
func faultOf(list []exception, name string) string {
	if i := slices.IndexFunc(list, func(e exception) bool { return e.name == name }); i >= 0 {
		return list[i].fault
	}
	return ""
}

// stale checks that every exception is of a case there is.
func stale(t *testing.T, list []exception, cases map[string]bool) {
	t.Helper()
	for _, e := range list {
		if !cases[e.name] {
			t.Errorf("%s is listed as an exception, and libvirt has no such case", e.name)
		}
	}
}

// text returns an error's text, "" if there is none.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// corpus returns the directory of libvirt's tests.
func corpus(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir, err := libvirtcorpus.Dir(ctx)
	if err != nil && os.Getenv("CI") != "true" {
		t.Skipf("without libvirt's test files: %v", err)
	}
	if err != nil {
		t.Fatalf("libvirt's test files are needed: %v", err)
	}
	return dir
}

// xmlFiles returns the XML files of a directory.
func xmlFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.xml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no XML files in %s: %v", dir, err)
	}
	return files
}

// TestLibvirtNetworks holds Parse and XML against libvirt's test of its parser:
// every file is printed byte for byte as libvirt prints it, or refused as
// libvirt refuses it.
func TestLibvirtNetworks(t *testing.T) {
	dir := corpus(t)
	source := string(read(t, filepath.Join(dir, "networkxml2xmltest.c")))
	files := xmlFiles(t, filepath.Join(dir, "networkxml2xmlin"))
	refused, names := 0, make(map[string]bool)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".xml")
		names[name] = true
		if strings.Contains(source, `DO_TEST_PARSE_ERROR("`+name+`")`) {
			refused++
			t.Run(name, func(t *testing.T) { refuse(t, read(t, file)) })
			continue
		}
		twin := filepath.Join(dir, "networkxml2xmlout", name+".xml")
		t.Run(name, func(t *testing.T) { accept(t, read(t, file), read(t, twin), faultOf(definitionExceptions(), name)) })
	}
	stale(t, definitionExceptions(), names)
	t.Logf("%s: %d networks, of which %d are refused, %d only by Validate",
		filepath.Base(filepath.Dir(dir)), len(files), refused, len(definitionExceptions()))
}

// refuse checks that a definition is not accepted.
func refuse(t *testing.T, src []byte) {
	n, err := netdef.Parse(src)
	if err == nil {
		err = n.Validate()
	}
	if err == nil {
		t.Error("accepted, want a fault: libvirt refuses it")
	}
}

// accept checks that a definition is printed as libvirt does, and that all
// that is wrong with it is fault.
func accept(t *testing.T, src, want []byte, fault string) {
	n, err := netdef.Parse(src)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	if diff := cmp.Diff(string(want), string(n.XML())); diff != "" {
		t.Errorf("XML (-libvirt +ours):\n%s", diff)
	}
	if diff := cmp.Diff(fault, text(n.Validate())); diff != "" {
		t.Errorf("Validate (-want +got):\n%s", diff)
	}
}

// TestLibvirtPorts is TestLibvirtNetworks for <networkport>.
func TestLibvirtPorts(t *testing.T) {
	dir := corpus(t)
	files := xmlFiles(t, filepath.Join(dir, "virnetworkportxml2xmldata"))
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			p, err := netdef.ParsePort(read(t, file))
			if err != nil {
				t.Fatalf("ParsePort: %v", err)
			}
			if diff := cmp.Diff(string(read(t, file)), string(p.XML())); diff != "" {
				t.Errorf("XML (-libvirt +ours):\n%s", diff)
			}
		})
	}
	t.Logf("%s: %d ports", filepath.Base(filepath.Dir(dir)), len(files))
}

// updateCase is a row of libvirt's test of updates. Its files are named without
// directory and suffix.
type updateCase struct {
	name, update, network, want string
	command, section            string // as virsh names them
	fails                       bool
}

// updateCases reads the rows out of libvirt's test: statements that set the
// section, and calls of DO_TEST macros. The index of an <ip> that a call may
// have is left out: the macro puts it into the field of another argument, and
// every case runs with 0.
func updateCases(t *testing.T, source string) []updateCase {
	t.Helper()
	statement := regexp.MustCompile(`(?m)^    (?:section = VIR_NETWORK_SECTION_(\w+)|DO_TEST(?:_INDEX)?(_FAIL)?\(([^)]*)\));`)
	virsh := func(constant string) string { return strings.ToLower(strings.ReplaceAll(constant, "_", "-")) }
	var cases []updateCase
	section := ""
	for _, m := range statement.FindAllStringSubmatch(source, -1) {
		if m[1] != "" {
			section = virsh(m[1])
			continue
		}
		args := strings.Split(m[3], ",")
		for i := range args {
			args[i] = strings.Trim(strings.TrimSpace(args[i]), `"`)
		}
		c := updateCase{name: args[0], update: args[1], network: args[2], section: section, fails: m[2] != ""}
		rest := args[3:]
		if !c.fails {
			c.want, rest = rest[0], rest[1:]
		}
		c.command = virsh(strings.TrimPrefix(rest[0], "VIR_NETWORK_UPDATE_COMMAND_"))
		cases = append(cases, c)
	}
	if calls := len(regexp.MustCompile(`(?m)^    DO_TEST\w*\("`).FindAllString(source, -1)); len(cases) == 0 || len(cases) != calls {
		t.Fatalf("read %d cases of %d calls", len(cases), calls)
	}
	return cases
}

// TestLibvirtUpdates holds Update against libvirt's test.
func TestLibvirtUpdates(t *testing.T) {
	dir := corpus(t)
	used, names := make(map[string]bool), make(map[string]bool)
	cases := updateCases(t, string(read(t, filepath.Join(dir, "networkxml2xmlupdatetest.c"))))
	for _, c := range cases {
		used[c.update], names[c.name] = true, true
		t.Run(c.section+"/"+c.name, func(t *testing.T) { runUpdateCase(t, dir, c) })
	}
	files := xmlFiles(t, filepath.Join(dir, "networkxml2xmlupdatein"))
	for _, file := range files {
		if name := strings.TrimSuffix(filepath.Base(file), ".xml"); !used[name] {
			t.Errorf("no case uses %s.xml", name)
		}
	}
	stale(t, updateExceptions(), names)
	t.Logf("%s: %d updates with %d files, of which %d are refused where libvirt's driver does",
		filepath.Base(filepath.Dir(dir)), len(cases), len(files), len(updateExceptions()))
}

func runUpdateCase(t *testing.T, dir string, c updateCase) {
	file := func(sub, name string) []byte { return read(t, filepath.Join(dir, sub, name+".xml")) }
	n := parse(t, file("networkxml2xmlin", c.network))
	before := string(n.XML())
	command, err := netdef.ParseCommand(c.command)
	section, err2 := netdef.ParseSection(c.section)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	err = n.Update(netdef.Update{Command: command, Section: section, XML: file("networkxml2xmlupdatein", c.update)})
	want := before
	switch fault := faultOf(updateExceptions(), c.name); {
	case fault != "":
		if diff := cmp.Diff(fault, text(err)); diff != "" {
			t.Errorf("Update (-want +got):\n%s", diff)
		}
	case c.fails && err == nil:
		t.Error("Update succeeded, want an error as of libvirt")
	case !c.fails && err != nil:
		t.Errorf("Update: %v", err)
	case !c.fails:
		want = string(file("networkxml2xmlupdateout", c.want))
	}
	if diff := cmp.Diff(want, string(n.XML())); diff != "" {
		t.Errorf("network (-want +got):\n%s", diff)
	}
}

// TestExceptionsDocumented checks that the manual names every exception.
func TestExceptionsDocumented(t *testing.T) {
	page := string(read(t, "../../docs/libvirt.md"))
	for _, e := range slices.Concat(definitionExceptions(), updateExceptions()) {
		if !strings.Contains(page, "`"+e.name+"`") {
			t.Errorf("docs/libvirt.md does not name `%s`", e.name)
		}
	}
}
