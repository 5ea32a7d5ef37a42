package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// prometheus is where the one of the test answers, and vnetdMetrics what it asks.
const (
	prometheus   = "127.0.0.1:9090"
	vnetdMetrics = "127.0.0.1:9753"
)

// watchedXML is a network on which guests are forwarded at once, and watchedGateway its address.
const (
	watchedGateway = "192.0.2.1"
	watchedXML     = "<network><name>watched</name><forward mode='nat'/><bridge name='vb-watched' stp='off' delay='0'/>" +
		"<ip address='" + watchedGateway + "' prefix='24'><dhcp><range start='192.0.2.10' end='192.0.2.99'/></dhcp></ip></network>"
)

// TestDashboard has a real Prometheus scrape vnetd with guests at work, load the alerts, and
// answer each question that the dashboard asks with something.
func TestDashboard(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		const config = "/run/vnetd.toml"
		if err := os.WriteFile(config, []byte("[metrics]\nlisten = \""+vnetdMetrics+"\"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		nstest.IP(t, "link set lo up")
		l.StartVnetd("--config", config)
		if err := l.VnetctlInput(t.Context(), watchedXML, "create", "-").Err(); err != nil {
			t.Fatal(err)
		}
		q, _ := leased(t, nstest.GuestConfig{Name: "web1", Netdev: (&story.Story{Lab: l}).Netdev("watched"), MAC: "52:54:00:00:53:01"})
		guest := nstest.Guest(t, "vb-watched", "g1", "52:54:00:00:53:02")
		leaseOf(t, guest, "web2")
		guest.IP("route add default via " + watchedGateway)
		vnetctl(t, l, "forward", "add", "watched", "8080:web2:80")
		servePrometheus(t)
		nstest.Eventually(t, limit, "Prometheus has the alerts", func() error { return alertsLoaded(t.Context()) })
		missing := expressions(t)
		nstest.Eventually(t, limit, "each panel shows something", func() error {
			if err := atWork(t.Context(), q, guest); err != nil {
				return err
			}
			var errs []error
			for expr, title := range missing {
				switch results, err := evaluate(t.Context(), expr); {
				case err != nil:
					return err
				case results > 0:
					delete(missing, expr)
				default:
					errs = append(errs, fmt.Errorf("panel %q: nothing for %s", title, expr))
				}
			}
			return errors.Join(errs...)
		})
		shown := vnetctl(t, l, "port", "show", ports(t)[0].IfName, "--format", "{{.receive.bytes}} {{.receive.packets}} {{.transmit.bytes}} {{.transmit.packets}}")
		if fields := strings.Fields(shown); len(fields) != 4 || slices.Contains(fields, "0") {
			t.Errorf("port show counts %q of a guest at work", shown)
		}
	})
}

// servePrometheus starts Prometheus, which asks vnetd each second. It ends with the test.
func servePrometheus(t *testing.T) {
	t.Helper()
	root, err := nstest.Root()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(root, ".cache", "prometheus")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("no Prometheus, run test/deps.sh: %v", err)
	}
	const config = "/run/prometheus.yml"
	text := "global: {scrape_interval: 500ms, evaluation_interval: 500ms}\nrule_files: [" + filepath.Join(root, "configs/alerts.yml") +
		"]\nscrape_configs: [{job_name: vnetd, static_configs: [{targets: ['" + vnetdMetrics + "']}]}]\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create("/run/prometheus.log")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "--config.file="+config, "--storage.tsdb.path=/run/prometheus", "--web.listen-address="+prometheus, "--log.level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait() // t.Context has ended it
		if text, _ := os.ReadFile(log.Name()); t.Failed() || len(text) > 0 {
			t.Logf("log of Prometheus:\n%s", text)
		}
	})
}

// atWork has guests fetch pages, renew a lease, look names up, and send what makes no sense.
func atWork(ctx context.Context, q *nstest.QEMU, guest *nstest.NS) error {
	if out, code, err := q.Run(ctx, "wget -q -O /dev/null http://"+nstest.LANHost+"/page"); err != nil || code != 0 {
		return fmt.Errorf("the guest fetches a page: exit %d, %w: %s", code, err, out)
	}
	for _, cmd := range []*exec.Cmd{
		guest.Command(ctx, "busybox", "udhcpc", "-f", "-q", "-n", "-t", "20", "-T", "1", "-i", "eth0", "-x", "hostname:web2", "-s", "/bin/true"),
		guest.Command(ctx, "curl", "-sSf", "-o", "/dev/null", "http://"+nstest.LANHost+"/page"),
		guest.Command(ctx, "busybox", "nslookup", nstest.LANName, watchedGateway),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", cmd.Args, err, out)
		}
	}
	_ = guest.Command(ctx, "busybox", "nslookup", fmt.Sprintf("nosuch%d.example", time.Now().UnixNano()), watchedGateway).Run() // NXDOMAIN
	return guest.Do(func() error {
		for _, port := range []string{"53", "67"} {
			c, err := net.Dial("udp4", net.JoinHostPort(watchedGateway, port))
			if err != nil {
				return err
			}
			_, err = c.Write([]byte("this is no message"))
			if err = errors.Join(err, c.Close()); err != nil {
				return err
			}
		}
		return nil
	})
}

// expressions are what the panels of the dashboard ask, with their titles.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	type panel struct {
		Title   string
		Targets []struct{ Expr string }
		Panels  []json.RawMessage
	}
	var dashboard struct{ Panels []panel }
	text, err := os.ReadFile("../../configs/grafana-dashboard.json")
	if err == nil {
		err = json.Unmarshal(text, &dashboard)
	}
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, p := range dashboard.Panels {
		if len(p.Panels) > 0 {
			t.Errorf("panel %q has panels, of which this test knows nothing", p.Title)
		}
		for _, target := range p.Targets {
			// As Grafana does: all networks, and a time that has some scrapes.
			all[strings.NewReplacer("$__rate_interval", "10s", "$network", ".*").Replace(target.Expr)] = p.Title
		}
	}
	if len(all) < 20 {
		t.Fatalf("the dashboard asks %d questions only", len(all))
	}
	return all
}

// evaluate asks Prometheus, and returns how many results there are that are numbers.
func evaluate(ctx context.Context, expr string) (results int, err error) {
	var answer struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	if err := scraped(ctx, "query?query="+url.QueryEscape(expr), &answer); err != nil {
		return 0, fmt.Errorf("%s: %w", expr, err)
	}
	for _, r := range answer.Data.Result {
		if r.Value[1] != "NaN" {
			results++
		}
	}
	return results, nil
}

// alertsLoaded reports why Prometheus does not have all alerts, evaluated without a fault.
func alertsLoaded(ctx context.Context) error {
	text, err := os.ReadFile("../../configs/alerts.yml")
	if err != nil {
		return err
	}
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	if err := scraped(ctx, "rules", &answer); err != nil {
		return err
	}
	loaded := 0
	for _, g := range answer.Data.Groups {
		for _, r := range g.Rules {
			if r.Health != "ok" {
				return fmt.Errorf("alert %s is %s: %s", r.Name, r.Health, r.LastError)
			}
			loaded++
		}
	}
	if want := strings.Count(string(text), "- alert: "); loaded != want {
		return fmt.Errorf("%d alerts of %d", loaded, want)
	}
	return nil
}

// scraped reads what Prometheus answers.
func scraped(ctx context.Context, what string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+prometheus+"/api/v1/"+what, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return json.NewDecoder(response.Body).Decode(into)
}
