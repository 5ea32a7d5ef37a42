package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/vnetd/vnetd/internal/histogram"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/ra"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/store"
)

const metricsXML = "<network><name>one</name><forward mode='nat'/><bridge name='one'/><mac address='52:54:00:00:00:01'/>" +
	"<dns><forwarder domain='corp.example' addr='127.0.0.99'/></dns>" +
	"<ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.2' end='192.0.2.254'/></dhcp></ip>" +
	"<ip family='ipv6' address='2001:db8:1::1' prefix='64'><dhcp><range start='2001:db8:1::2' end='2001:db8:1::ff'/></dhcp></ip></network>"

// runDaemon builds the daemon without its bus on the test's namespace, and watches.
func runDaemon(t *testing.T) *daemon {
	t.Helper()
	dir := t.TempDir()
	cfg := config{FirewallBackend: iptablesBackend, ChainPrefix: "LIBVIRT_", ResolvConf: "/etc/resolv.conf", Dirs: store.Dirs{
		Networks: filepath.Join(dir, "networks"), State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"),
	}}
	h, err := build(t.Context(), cfg, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { _ = h.manager.Watch(ctx) })
	t.Cleanup(func() {
		cancel()
		watching.Wait()
		if err := h.close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// scrape asks a running server for its metrics.
func scrape(t *testing.T, c *http.Client) string {
	t.Helper()
	reply, err := c.Get("http://vnetd/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil || reply.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v: %s", reply.Status, err, text)
	}
	return string(text)
}

// TestMetrics scrapes a network with a guest over a socket.
func TestMetrics(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := runDaemon(t)
		n, err := h.manager.Define(t.Context(), []byte(metricsXML))
		if err == nil {
			err = n.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		port, files, err := h.manager.Ports().Request(t.Context(), n, network.PortOptions{Name: "web", MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 9}, IfName: "tap9"})
		if err != nil {
			t.Fatal(err)
		}
		defer files[0].Close()
		const libvirts = "0e1c9f52-77a4-4c0b-9d59-6a1f0f1d2c3c"
		if _, err := h.manager.Ports().Register(t.Context(), n, &netdef.Port{
			UUID: libvirts, Owner: netdef.Owner{Name: "vm1", UUID: libvirts}, MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 8},
		}, false, 0); err != nil {
			t.Fatal(err)
		}
		// As libvirt's QEMU driver plugs a guest in.
		nstest.IP(t, "tuntap add vnet8 mode tap")
		nstest.IP(t, "link set vnet8 address fe:54:00:00:00:08 master one up")
		// The guest sends one frame of 60 bytes to nobody.
		frame := append([]byte{0x52, 0x54, 0, 0, 0, 0x77, 0x52, 0x54, 0, 0, 0, 9, 0x88, 0xb5}, make([]byte, 46)...)
		if _, err := files[0].Write(frame); err != nil {
			t.Fatal(err)
		}
		guest := nstest.Guest(t, "one", "guest", "")
		guest.Exec("busybox", "udhcpc", "-f", "-q", "-n", "-t", "20", "-T", "5", "-i", "eth0", "-s", "/bin/true") // one answer, however slow
		nstest.Exec(t, "dig", "+tries=1", "+time=20", "@192.0.2.1", "gateway")
		nstest.Exec(t, "iptables", "-I", "FORWARD", "-i", "one", "-j", "DROP")

		const socket = "/run/metrics.sock"
		l, err := openMetrics("unix:" + socket)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- serveMetrics(ctx, l, h, slog.New(slog.DiscardHandler)) }()
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}
		want := []string{
			`vnetd_network_info{network="one",uuid="` + n.Info().UUID + `",bridge="one",mode="nat",mtu="0"} 1`,
			`vnetd_network_up{network="one"} 1`,
			`vnetd_network_ports{network="one"} 2`,
			`vnetd_network_failures_total{network="one"} 0`,
			`vnetd_port_request_seconds_count 2`,
			`vnetd_port_request_seconds_bucket{le="+Inf"} 2`,
			`vnetd_port_info{port="` + port.UUID + `",network="one",name="web",mac="52:54:00:00:00:09",ifname="tap9"} 1`,
			`vnetd_port_info{port="` + libvirts + `",network="one",name="vm1",mac="52:54:00:00:00:08",ifname="vnet8"} 1`,
			`vnetd_port_transmit_packets_total{port="` + libvirts + `"} 0`,
			`vnetd_port_transmit_packets_total{port="` + port.UUID + `"} 1`,
			`vnetd_port_transmit_bytes_total{port="` + port.UUID + `"} 60`,
			`vnetd_dhcp_messages_total{network="one",family="ipv4",type="ack"} 1`,
			`vnetd_dhcp_pool_size{network="one",family="ipv4"} 253`,
			`vnetd_dhcp_pool_used{network="one",family="ipv4"} 1`,
			`vnetd_dhcp_pool_used{network="one",family="ipv6"} 0`,
			`vnetd_dns_queries_total{network="one",source="local",rcode="NOERROR"} 1`,
			`vnetd_dns_queries_total{network="one",source="upstream",rcode="NOERROR"} 0`,
			`vnetd_dns_answer_seconds_count{upstream="false"} 1`,
			`vnetd_dns_answer_seconds_bucket{upstream="true",le="0.1"} 0`,
			`vnetd_dns_upstream_queries_total{network="one",server="127.0.0.99:53"} 0`,
			`vnetd_dns_upstream_up{network="one",server="127.0.0.99:53",domain="corp.example"} 1`,
			`vnetd_firewall_conflict{kind="drop-rule"} 1`,
			`vnetd_firewall_conflict{kind="forwarding-off"} 0`,
		}
		var text string
		nstest.Eventually(t, time.Minute, "all is counted", func() error {
			text = scrape(t, client)
			for _, line := range want {
				if !strings.Contains(text, "\n"+line+"\n") {
					return fmt.Errorf("no %s in\n%s", line, text)
				}
			}
			return nil
		})
		if strings.Contains(text, "vnetd_cluster_") {
			t.Error("there are metrics of a cluster, and none is there")
		}
		lintMetrics(t, text)
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(socket); err == nil {
			t.Error("the socket is left")
		}
	})
}

// lintMetrics fails the test where the metrics break Prometheus's rules for names
// and help texts, as promtool knows them.
func lintMetrics(t *testing.T, text string) {
	t.Helper()
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	const promtool = "../../.cache/promtool" // test/deps.sh fetches it
	if _, err := os.Stat(promtool); err != nil && os.Getenv("CI") != "true" {
		return
	}
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v: %s", err, out)
	}
}

// many is the measurement of networks with ten ports each.
func many(networks int) *measurement {
	m := &measurement{version: "1.2.3", links: map[string]bridge.Counters{}}
	commits := histogram.Counts{Counts: make([]uint64, 13)}
	for i := range 12 {
		commits.Bounds = append(commits.Bounds, time.Duration(i+1)*time.Millisecond)
	}
	for i := range networks {
		name := fmt.Sprintf("net%d", i)
		n := network.Stats{
			Info: api.Network{Name: name, UUID: name, Bridge: name, Mode: "nat", Active: true},
			DHCP: &v4.Stats{Common: dhcpd.Common{CommitLatency: commits}}, DHCP6: &v6.Stats{}, DNS: &dnsd.Stats{}, RA: &ra.Stats{},
		}
		for j := range 10 {
			p := network.PortName{UUID: fmt.Sprintf("00000000-0000-4000-8000-%06d%06d", i, j), MAC: "52:54:00:00:00:01", IfName: fmt.Sprintf("vnet%d", 10*i+j)}
			n.Ports = append(n.Ports, p)
			m.links[p.IfName] = bridge.Counters{RxBytes: uint64(i) << 20, TxBytes: 1234567890, RxPackets: 1000, TxPackets: 1000}
		}
		m.networks = append(m.networks, n)
	}
	return m
}

// TestMetricsAreConsistent reads what is written for many networks with the
// library's own parser: every sample once, labels as they were.
func TestMetricsAreConsistent(t *testing.T) {
	m := many(20)
	m.networks[3].Ports[1].Name = "a\"b\\c\nd"
	var written bytes.Buffer
	if err := expose(&written, m, nil); err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(&written)
	if err != nil {
		t.Fatal(err)
	}
	seen, odd := map[string]bool{}, false
	for name, f := range all {
		for _, sample := range f.Metric {
			key := name + fmt.Sprint(sample.Label)
			if seen[key] {
				t.Errorf("%s is there twice", key)
			}
			seen[key] = true
			for _, l := range sample.Label {
				odd = odd || l.GetValue() == m.networks[3].Ports[1].Name
			}
		}
	}
	if got := len(all["vnetd_port_receive_bytes_total"].GetMetric()); got != 200 || !odd {
		t.Errorf("%d samples of port_receive_bytes_total; a name that needs quotes: %v", got, odd)
	}
	if h := all["vnetd_dhcp_commit_seconds"].GetMetric()[0].GetHistogram(); len(h.GetBucket()) != 13 {
		t.Errorf("histogram %v", h)
	}
}

// TestMetricsAreDocumented holds docs/metrics.md to the families, and the dashboard
// and the alerts to those that there are.
func TestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, f := range families {
		known["vnetd_"+f.name] = true
		labels := ""
		for i, l := range strings.Fields(f.labels) {
			labels += strings.Repeat(" ", min(i, 1)) + "`" + l + "`"
		}
		if row := fmt.Sprintf("| `vnetd_%s` | %s | %s | %s |", f.name, f.kind, labels, f.help); !strings.Contains(string(doc), row) {
			t.Errorf("docs/metrics.md lacks %s", row)
		}
	}
	dashboard, err := os.ReadFile("../../configs/grafana-dashboard.json")
	if err != nil || !json.Valid(dashboard) {
		t.Fatalf("the dashboard: %v, valid JSON: %v", err, json.Valid(dashboard))
	}
	alerts, err := os.ReadFile("../../configs/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range [][]byte{doc, dashboard, alerts} {
		for _, name := range regexp.MustCompile(`vnetd_[a-z0-9_]+`).FindAllString(string(text), -1) {
			if !known[strings.TrimSuffix(name, "_bucket")] {
				t.Errorf("there is no metric %s", name)
			}
		}
	}
}

// BenchmarkScrape writes the metrics of 200 networks and 2,000 ports to a scraper.
func BenchmarkScrape(b *testing.B) {
	m := many(200)
	x := newExposition(func() (*measurement, error) { return m, nil }, slog.New(slog.DiscardHandler))
	server := httptest.NewServer(x)
	defer server.Close()
	for b.Loop() {
		reply, err := http.Get(server.URL)
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, reply.Body)
		if err := errors.Join(err, reply.Body.Close()); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
}
