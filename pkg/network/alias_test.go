package network_test

import (
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// addressOf is what a name has in the end, by the network of servedXML.
func addressOf(t *testing.T, name string) string {
	t.Helper()
	r, _, err := (&dns.Client{Timeout: 10 * time.Second}).Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), "192.168.130.1:53")
	if err != nil {
		t.Fatal(err)
	}
	all := []string{dns.RcodeToString[r.Rcode]}
	for _, rr := range r.Answer {
		all = append(all, dns.Field(rr, 1))
	}
	return strings.Join(all, " ")
}

// TestPortAliases: other names of a guest follow its addresses, outlive a restart, a stop and a
// change of the network, and end with the port; nobody gets one that somebody else has, and
// the error says who.
func TestPortAliases(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const domain = "<domain name='vm.example' localOnly='yes'/>"
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		n := h.started(servedXML("<host ip='192.0.2.9'><hostname>taken</hostname></host>", "<host mac='52:54:00:00:00:21' name='leased.vm.example' ip='192.168.130.8'/>", domain))
		is := func(name, want string) {
			t.Helper()
			if got := addressOf(t, name); got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
		info, file := h.port(n, network.PortOptions{
			Name: "vm1", Aliases: []string{"www", "DB"}, Addrs: ips("192.168.130.5"), Owner: 1000, ID: "x", Lifetime: api.LifetimePersistent,
		})
		must(t, file.Close())
		if strings.Join(info.Aliases, " ") != "www DB" {
			t.Errorf("the port says %q", info.Aliases)
		}
		served := func() {
			t.Helper()
			is("www", "NOERROR vm1.vm.example. 192.168.130.5")
			is("db.vm.example", "NOERROR vm1.vm.example. 192.168.130.5")
		}
		served()

		refused := func(opts network.PortOptions, kind api.Kind, why string) {
			t.Helper()
			_, _, err := h.Ports().Request(t.Context(), n, opts)
			if network.KindOf(err) != kind || !strings.Contains(err.Error(), why) {
				t.Errorf("%+v: %v, want %s, %q", opts, err, kind, why)
			}
		}
		port := " port " + info.UUID + " (" + info.IfName + "), which belongs to user 1000"
		refused(network.PortOptions{Name: "vm2", Aliases: []string{"WWW"}, Owner: 1000}, api.Conflict, `"WWW" is a name of`+port)
		refused(network.PortOptions{Name: "vm2", Aliases: []string{"vm1"}, Owner: 1000}, api.Conflict, `"vm1" is a name of`+port)
		refused(network.PortOptions{Name: "db", Owner: 1000}, api.Conflict, `"db" is an alias of`+port)
		refused(network.PortOptions{Name: "vm2", Aliases: []string{"taken"}}, api.Conflict, `"taken" is a name of the host 192.0.2.9 in the definition of network "served"`)
		refused(network.PortOptions{Name: "vm2", Aliases: []string{"leased"}}, api.Conflict, "the host 192.168.130.8")
		refused(network.PortOptions{Name: "vm2", Aliases: []string{"gateway"}}, api.Conflict, "the host 192.168.130.1")
		refused(network.PortOptions{Name: "vm2", Aliases: []string{"probe"}}, api.Conflict, "a record TXT")
		refused(network.PortOptions{Aliases: []string{"alone"}}, api.Invalid, "want the option name too")
		refused(network.PortOptions{Name: "vm2", Aliases: []string{"a.b"}}, api.Invalid, `"a.b" is not a host name`)
		refused(network.PortOptions{Name: "vm2", Aliases: []string{"wpad"}}, api.Invalid, "no name for a guest")
		refused(network.PortOptions{Name: "vm2", Aliases: []string{"a", "A"}}, api.Invalid, `"A" is there twice`)
		refused(network.PortOptions{Name: "vm2", Aliases: strings.Fields(strings.Repeat("a ", 17))}, api.Invalid, "want at most 16")
		refused(network.PortOptions{Name: "vm1", Aliases: []string{"www"}, Owner: 1000, ID: "x", Lifetime: api.LifetimePersistent}, api.Exists, "another aliases")

		h.end()
		h = newHub(t, root, hubOptions{})
		n, err := h.ByName("served")
		must(t, err)
		served()
		must(t, n.Stop(t.Context()))
		must(t, n.Start(t.Context()))
		served()
		must(t, n.Update(t.Context(), netdef.Update{Command: netdef.CommandAddLast, Section: netdef.SectionRecord, XML: []byte("<record name='www' type='A' value='192.0.2.77'/>")}, 0))
		is("www", "NOERROR 192.0.2.77") // who defines the network has the last word
		must(t, n.Update(t.Context(), netdef.Update{Command: netdef.CommandDelete, Section: netdef.SectionRecord, XML: []byte("<record name='www'/>")}, 0))
		served()
		must(t, h.Ports().Release(t.Context(), info.UUID))
		is("www.vm.example", "NXDOMAIN")
		is("db.vm.example", "NXDOMAIN")
		again, file := h.port(n, network.PortOptions{Name: "vm2", Aliases: []string{"www"}, Addrs: ips("192.168.130.6")})
		is("www", "NOERROR vm2.vm.example. 192.168.130.6")
		must(t, file.Close())
		until(t, "the alias ends with the port "+again.UUID, func() bool { return addressOf(t, "www.vm.example") == "NXDOMAIN" })
	})
}
