package house

import (
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport lists, for each package of the project, the others of the project
// that it may import: "*" stands for all, "pkg/dhcpd/" for that package and those
// below it. What has no row of its own goes by that of the folder above, within
// which all is allowed.
var mayImport = map[string][]string{
	"cmd/vnetd":                {"*"},
	"cmd/vnetctl":              {"cmd/vnetctl/cluster", "cmd/vnetctl/daemon", "cmd/vnetctl/document", "cmd/vnetctl/format", "cmd/vnetctl/graph", "cmd/vnetctl/libvirt", "cmd/vnetctl/packets", "cmd/vnetctl/suggest", "cmd/vnetctl/table", "cmd/vnetctl/top", "cmd/vnetctl/trace", "docs", "pkg/client", "pkg/api"},
	"cmd/vnetctl/cluster":      {"pkg/api"},
	"cmd/vnetctl/daemon":       {"pkg/client", "pkg/api"},
	"cmd/vnetctl/document":     {"pkg/netdef", "pkg/netdef/policy", "pkg/netdef/span"},
	"cmd/vnetctl/format":       {},
	"cmd/vnetctl/graph":        {"pkg/api"},
	"cmd/vnetctl/libvirt":      {"pkg/client", "pkg/api"},
	"cmd/vnetctl/packets":      {"pkg/api"},
	"cmd/vnetctl/table":        {"pkg/api"},
	"cmd/vnetctl/top":          {"cmd/vnetctl/table", "pkg/api"},
	"cmd/vnetctl/trace":        {"cmd/vnetctl/packets", "internal/netlink", "internal/nfnetlink", "pkg/api", "pkg/bridge/path"},
	"cmd/vnet-bridge-helper":   {"pkg/client", "pkg/api"},
	"cmd/vnet-bgp":             {"pkg/bgp/speaker"},
	"cmd/vnet-cluster":         {"pkg/api", "pkg/cluster", "pkg/cluster/admin", "pkg/cluster/etcd"},
	"configs/examples":         {"pkg/client", "pkg/api"},
	"pkg/api":                  {},
	"pkg/client":               {"internal/sysbus", "pkg/api"},
	"pkg/dbusapi":              {"internal/polkit", "internal/quota", "internal/sysbus", "pkg/network", "pkg/netdef", "pkg/api"},
	"internal/sysbus":          {},
	"internal/systemd":         {},
	"internal/quota":           {},
	"internal/polkit":          {"internal/sysbus"},
	"pkg/libvirtrpc":           {"internal/ether", "internal/polkit", "internal/quota", "internal/sysbus", "pkg/network", "pkg/netdef", "pkg/netdef/schema", "pkg/api"},
	"pkg/network":              {"pkg/network/", "pkg/api", "pkg/cluster", "pkg/netdef", "pkg/bridge", "pkg/bridge/neighbour", "pkg/bridge/path", "pkg/bridge/hostlink", "pkg/bridge/vxlan", "pkg/firewall", "pkg/firewall/diagnose/", "pkg/dhcpd", "pkg/store", "internal/histogram", "pkg/netdef/policy", "pkg/netdef/span", "pkg/dnsd"},
	"pkg/network/live":         {"internal/portowner", "pkg/network/", "pkg/api", "pkg/netdef", "pkg/bridge", "pkg/bridge/neighbour", "pkg/bridge/vlan", "pkg/bridge/hostlink", "pkg/bridge/vxlan", "pkg/firewall", "pkg/dhcpd/", "pkg/dnsd", "pkg/store", "pkg/netdef/policy"},
	"pkg/network/announce":     {"pkg/api", "pkg/bgp", "pkg/netdef"},
	"pkg/network/attach":       {"internal/ether", "pkg/network/drift", "pkg/network/env", "pkg/network/guard", "pkg/network/port", "pkg/network/service", "pkg/network/translate", "pkg/api", "pkg/netdef", "pkg/bridge", "pkg/bridge/hostlink", "pkg/bridge/vlan", "pkg/tap", "pkg/dhcpd", "pkg/store"},
	"pkg/network/env":          {"pkg/network/announce", "pkg/network/member", "pkg/sriov", "pkg/network/drift", "pkg/network/guard", "pkg/network/health", "pkg/network/host", "pkg/network/limit", "pkg/network/port", "pkg/network/service", "pkg/network/translate", "pkg/api", "pkg/netdef", "pkg/bridge", "pkg/bridge/vlan", "pkg/bridge/hostlink", "pkg/bridge/vxlan", "pkg/firewall", "pkg/firewall/diagnose/ruleset", "pkg/dhcpd", "pkg/dnsd/resolved", "pkg/store", "internal/histogram"},
	"pkg/network/port":         {"internal/dnsname", "internal/ether", "pkg/api", "pkg/bridge", "pkg/tap", "pkg/firewall", "pkg/netdef", "pkg/store", "pkg/netdef/policy"}, // netdef: libvirt's port document
	"pkg/network/service":      {"pkg/api", "pkg/dhcpd/", "pkg/dnsd/"},
	"pkg/network/guard":        {"pkg/api", "pkg/bridge", "pkg/bridge/vlan", "pkg/bridge/neighbour", "pkg/firewall", "pkg/netdef", "pkg/network/port", "pkg/network/translate"},
	"pkg/network/limit":        {"pkg/api", "pkg/bridge", "pkg/bridge/tc"},
	"pkg/network/translate":    {"internal/dnsname", "internal/ether", "pkg/api", "pkg/netdef", "pkg/dnsmasq", "pkg/bridge", "pkg/bridge/vlan", "pkg/bridge/hostlink", "pkg/bridge/vxlan", "pkg/bridge/tc", "pkg/firewall", "pkg/dhcpd/", "pkg/dnsd/", "pkg/network/service", "pkg/netdef/policy", "pkg/netdef/span"},
	"pkg/network/member":       {"pkg/api", "pkg/bridge/vxlan", "pkg/cluster", "pkg/cluster/record", "pkg/dhcpd", "pkg/dnsd", "pkg/netdef", "pkg/netdef/span", "pkg/network/translate"},
	"pkg/network/takeover":     {"pkg/api", "pkg/netdef", "pkg/dhcpd", "pkg/network/translate"},
	"pkg/network/admission":    {"pkg/firewall", "pkg/netdef", "pkg/netdef/policy"},
	"pkg/network/forward":      {"internal/ether", "internal/portowner", "pkg/api", "pkg/firewall", "pkg/netdef"},
	"pkg/network/host":         {"pkg/api", "pkg/netdef", "pkg/bridge/", "pkg/firewall", "pkg/tap", "pkg/store", "pkg/network/translate", "pkg/network/admission"},
	"pkg/network/reach":        {"pkg/api", "pkg/bridge", "pkg/bridge/neighbour", "pkg/bridge/path", "pkg/bridge/vlan", "pkg/firewall", "pkg/firewall/diagnose/"},
	"pkg/network/change":       {"pkg/api", "pkg/netdef", "pkg/network/translate"},
	"pkg/network/drift":        {"internal/contention", "pkg/bridge"},
	"pkg/network/health":       {"pkg/api", "pkg/bridge/", "pkg/network/drift", "pkg/firewall", "pkg/dhcpd/", "pkg/netdef", "pkg/store"},
	"pkg/netdef":               {"internal/ether", "internal/dnsname", "pkg/netdef/", "pkg/dnsmasq"},
	"pkg/netdef/policy":        {"internal/dnsname", "pkg/netdef/schema", "pkg/netdef/xmldoc"},
	"pkg/netdef/announce":      {"pkg/netdef/schema", "pkg/netdef/xmldoc"},
	"pkg/netdef/span":          {"pkg/netdef/schema", "pkg/netdef/xmldoc"},
	"pkg/netdef/schema":        {"pkg/netdef/xmldoc"},
	"docs":                     {},
	"pkg/netdef/subnet":        {},
	"pkg/netdef/xmldoc":        {},
	"pkg/dnsmasq":              {"internal/dnsname"},
	"pkg/bgp":                  {},
	"pkg/bgp/speaker":          {"pkg/bgp"},
	"pkg/cluster":              {"pkg/cluster/record"},
	"pkg/cluster/admin":        {"internal/ether", "pkg/api", "pkg/cluster", "pkg/cluster/pki", "pkg/cluster/record"},
	"pkg/cluster/disk":         {"pkg/cluster"},
	"pkg/cluster/etcd":         {"pkg/cluster", "pkg/cluster/record"},
	"pkg/cluster/pki":          {},
	"pkg/cluster/record":       {},
	"pkg/bridge":               {"internal/ether", "internal/netlink", "pkg/bridge/removal", "pkg/bridge/vlan"},
	"pkg/bridge/neighbour":     {"internal/netlink"},
	"pkg/bridge/path":          {"internal/netlink"},
	"pkg/bridge/removal":       {"internal/netlink"},
	"pkg/bridge/tc":            {"internal/netlink"},
	"pkg/bridge/vlan":          {"internal/netlink"},
	"pkg/bridge/hostlink":      {"internal/ether", "internal/netlink", "pkg/bridge"},
	"pkg/bridge/vxlan":         {"internal/ether", "internal/netlink", "pkg/bridge"},
	"pkg/bridge/uplink":        {"internal/ether", "internal/netlink", "pkg/bridge"},
	"pkg/sriov":                {},
	"pkg/tap":                  {"internal/ether"},
	"pkg/firewall":             {"internal/contention", "internal/ether", "internal/sysbus"},
	"pkg/firewall/iptables":    {"pkg/firewall", "pkg/firewall/diagnose/", "pkg/firewall/keep", "internal/netlink", "internal/nfnetlink"},
	"pkg/firewall/keep":        {"pkg/firewall", "internal/netlink", "internal/nfnetlink"},
	"pkg/firewall/offload":     {"pkg/firewall", "internal/netlink", "internal/nfnetlink"},
	"pkg/firewall/overlay":     {"pkg/firewall", "internal/netlink", "internal/nfnetlink"},
	"internal/nfnetlink":       {"internal/netlink"},
	"pkg/firewall/flows":       {"pkg/firewall", "internal/netlink"},
	"pkg/firewall/diagnose":    {"pkg/firewall"},
	"pkg/firewall/nft":         {"pkg/firewall", "pkg/firewall/keep", "internal/netlink", "internal/nfnetlink"},
	"pkg/dhcpd":                {"internal/dnsname", "pkg/dhcpd/internal/iface", "pkg/dhcpd/internal/index", "internal/histogram"},
	"pkg/dhcpd/v4":             {"internal/udpwait", "pkg/dhcpd", "pkg/dhcpd/internal/iface"},
	"pkg/dhcpd/v6":             {"internal/udpwait", "pkg/dhcpd", "pkg/dhcpd/internal/iface"},
	"pkg/dhcpd/ra":             {"internal/handover", "pkg/dhcpd", "pkg/dhcpd/internal/iface"},
	"pkg/dhcpd/tftp":           {"internal/handover", "pkg/dhcpd/internal/iface"},
	"pkg/dhcpd/internal/index": {},
	"pkg/dhcpd/internal/iface": {"internal/handover", "internal/netlink", "internal/ratelog"},
	"pkg/dnsd":                 {"internal/ether", "internal/dnsname", "pkg/dnsd/wire", "pkg/dnsd/zone", "pkg/dnsd/upstream", "pkg/dnsd/mmsg", "internal/handover", "internal/histogram", "internal/portowner", "internal/ratelog", "internal/udpwait"},
	"pkg/dnsd/wire":            {},
	"pkg/dnsd/zone":            {"internal/dnsname", "pkg/dnsd/wire"},
	"pkg/dnsd/upstream":        {"pkg/dnsd/arrival", "pkg/dnsd/mmsg", "pkg/dnsd/wire"},
	"pkg/dnsd/arrival":         {"pkg/dnsd/mmsg", "pkg/dnsd/wire"},
	"pkg/dnsd/mmsg":            {},
	"pkg/dnsd/resolved":        {"internal/contention", "internal/dnsname", "pkg/dnsd/wire", "internal/sysbus"},
	"internal/contention":      {},
	"internal/ether":           {},
	"internal/handover":        {},
	"internal/histogram":       {},
	"internal/netlink":         {},
	"internal/udpwait":         {},
	"internal/portowner":       {},
	"internal/ratelog":         {},
	"pkg/leasedb":              {"pkg/dhcpd"},
	"pkg/store":                {"pkg/leasedb", "pkg/netdef", "pkg/dhcpd"},
	"internal/dnsname":         {},
}

// mayUse lists, for each fixed library, the packages whose business it is, or
// the only files of a package.
var mayUse = map[string][]string{
	"github.com/vishvananda/netlink":         {"pkg/bridge", "pkg/bridge/tc", "pkg/tap"},
	"github.com/coreos/go-iptables":          {"pkg/firewall/iptables"},
	"github.com/google/nftables":             {"pkg/firewall/nft"},
	"github.com/insomniacslk/dhcp":           {"pkg/dhcpd", "pkg/dhcpd/v4", "pkg/dhcpd/v6"},
	"github.com/mdlayher/packet":             {"pkg/dhcpd/v4", "pkg/dhcpd/internal/iface"},
	"github.com/mdlayher/ndp":                {"pkg/dhcpd/ra"},
	"github.com/pin/tftp":                    {"pkg/dhcpd/tftp"},
	"github.com/miekg/dns":                   {"internal/dnsname", "pkg/dnsd", "pkg/dnsd/upstream", "pkg/dnsd/wire", "pkg/dnsd/zone"},
	"github.com/gdamore/tcell/v2":            {"cmd/vnetctl/top", "cmd/vnetctl/monitor.go"},
	"github.com/rivo/uniseg":                 {"cmd/vnetctl/table"},
	"github.com/godbus/dbus/v5":              {"internal/sysbus", "pkg/dbusapi", "pkg/client", "pkg/firewall/firewalld.go", "pkg/dnsd/resolved", "internal/polkit"},
	"go.etcd.io/bbolt":                       {"pkg/store", "pkg/cluster/disk"},
	"go.etcd.io/etcd":                        {"pkg/cluster/etcd"},
	"github.com/osrg/gobgp":                  {"pkg/bgp/speaker"},
	"go.uber.org/zap":                        {"pkg/cluster/etcd"},
	"google.golang.org/grpc":                 {"pkg/cluster/etcd"},
	"github.com/BurntSushi/toml":             {"cmd/vnet-cluster", "cmd/vnetd"},
	"github.com/spf13/cobra":                 {"cmd/vnetctl"},
	"github.com/prometheus/client_golang":    {"cmd/vnetd"},
	"libvirt.org/go/libvirtxml":              {}, // the tests' oracle
	"github.com/rogpeppe/go-internal":        {}, // tests
	"github.com/google/go-cmp":               {}, // tests
	"github.com/vnetd/vnetd/internal/nstest": {}, // tests
}

// testsOnly are the parts of the project that no rule binds: they are tests.
var testsOnly = []string{"internal/golden", "internal/nstest", "internal/house", "pkg/dhcpd/dhcpdtest", "pkg/cluster/clustertest", "pkg/firewall/guardtest", "pkg/firewall/firewalltest", "test/"}

// packages lists the packages of the project with what their non-test files
// import.
func packages(t *testing.T) []listed {
	t.Helper()
	all, err := list(".", Module+"/...")
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		all[i].ImportPath = strings.TrimPrefix(all[i].ImportPath, Module+"/")
	}
	return slices.DeleteFunc(all, func(p listed) bool { return len(p.GoFiles) == 0 || hasAnyPrefix(p.ImportPath, testsOnly) })
}

func hasAnyPrefix(s string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// owner returns the row of the table of imports that a package belongs to: its
// own, or that of the folder above.
func owner(path string) string {
	if _, known := mayImport[path]; known || !strings.Contains(path, "/") {
		return path
	}
	return owner(filepath.Dir(path))
}

// covers reports whether an entry of mayImport allows a package.
func covers(allowed, path string) bool {
	return allowed == "*" || allowed == path || strings.HasSuffix(allowed, "/") && strings.HasPrefix(path+"/", allowed)
}

func TestImportsPointDown(t *testing.T) {
	seen := 0
	for _, p := range packages(t) {
		allowed, known := mayImport[owner(p.ImportPath)]
		if !known {
			t.Errorf("package %s has no row in the table of imports", p.ImportPath)
		}
		for _, imported := range p.Imports {
			path, ours := strings.CutPrefix(imported, Module+"/")
			if !ours || owner(path) == owner(p.ImportPath) {
				continue
			}
			seen++
			if !slices.ContainsFunc(allowed, func(a string) bool { return covers(a, path) }) {
				t.Errorf("%s imports %s, which the house does not allow", p.ImportPath, path)
			}
		}
	}
	if seen == 0 {
		t.Error("no import within the project was seen: this test sees nothing")
	}
}

func TestLibrariesStayInTheirLeaf(t *testing.T) {
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			for _, imported := range fileImports(t, filepath.Join(p.Dir, name)) {
				checkUse(t, owner(p.ImportPath), name, imported)
			}
		}
	}
}

// checkUse holds that a file of a package may import what it imports.
func checkUse(t *testing.T, pkg, file, imported string) {
	t.Helper()
	for library, users := range mayUse {
		if imported != library && !strings.HasPrefix(imported, library+"/") {
			continue
		}
		if !slices.Contains(users, pkg) && !slices.Contains(users, pkg+"/"+file) {
			t.Errorf("%s/%s imports %s, which is the business of %v", pkg, file, imported, users)
		}
	}
}

// fileImports lists what a file imports.
func fileImports(t *testing.T, path string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// TestNoInit holds that nothing happens by being imported, and that no package
// goes by a name that says nothing.
func TestNoInit(t *testing.T) {
	for _, p := range packages(t) {
		if slices.Contains([]string{"util", "utils", "common", "types", "helpers"}, filepath.Base(p.ImportPath)) {
			t.Errorf("package %s is named after nothing", p.ImportPath)
		}
		for _, name := range p.GoFiles {
			out, err := exec.Command("grep", "-nE", `^func init\(\)`, filepath.Join(p.Dir, name)).Output()
			if err == nil {
				t.Errorf("%s/%s: %s", p.ImportPath, name, out)
			}
		}
	}
}
