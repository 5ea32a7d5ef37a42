package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
)

const (
	uplinkXML = `<network xmlns:vnetd='urn:vnetd:network:1'><name>lan</name><forward mode='bridge'/>` +
		`<bridge name='br0'/><vnetd:uplink dev='eno1'/></network>`
	uplinkMAC  = "52:54:00:00:e0:01"
	anotherMAC = "52:54:00:00:e0:02"
)

// uplinkHost is a host with an uplink that comes and goes.
type uplinkHost struct {
	*nstest.Lab
	t     *testing.T
	vnetd *nstest.Vnetd
	// configure sets up the card of that name, as at boot; nil: a network manager that
	// runs does.
	configure func(nic string)
	nic       string // the card's name now
}

// plug plugs a card into the LAN.
func (h *uplinkHost) plug(nic, mac string) {
	h.t.Helper()
	nstest.IP(h.t, "link add "+nic+" address "+mac+" type veth peer name lan0 netns lan")
	for _, args := range []string{
		"addr add " + nstest.LANHost + "/24 dev lan0",
		"-6 addr add " + nstest.LANHost6 + "/64 dev lan0 nodad",
		"link set lan0 up",
	} {
		h.LAN.IP(args)
	}
	h.nic = nic
}

func (h *uplinkHost) unplug() {
	h.t.Helper()
	nstest.IP(h.t, "link del "+h.nic)
	h.nic = ""
}

// uplinkEvents are what happens to an uplink: what comes, and how it ends.
var uplinkEvents = map[string]struct{ begin, end func(h *uplinkHost) }{
	"away": {
		func(h *uplinkHost) { h.unplug() },
		func(h *uplinkHost) { h.plug("eno1", uplinkMAC) },
	},
	"renamed": {
		func(h *uplinkHost) { h.rename("lan9") },
		func(*uplinkHost) {},
	},
	"renamed_for_a_while": {
		func(h *uplinkHost) { h.rename("lan9") },
		func(h *uplinkHost) { h.rename("eno1") },
	},
	"back_under_another_name": {
		func(h *uplinkHost) { h.unplug() },
		func(h *uplinkHost) { h.plug("lan9", uplinkMAC) },
	},
	"replaced": {
		func(h *uplinkHost) { h.unplug() },
		func(h *uplinkHost) { h.plug("eno1", anotherMAC) },
	},
	"down": {
		func(h *uplinkHost) { nstest.IP(h.t, "link set "+h.nic+" down") },
		func(h *uplinkHost) { nstest.IP(h.t, "link set "+h.nic+" up") },
	},
	"flapping": {
		func(h *uplinkHost) { h.flap() },
		func(h *uplinkHost) { h.flap() },
	},
}

// rename gives the card another name: down, as older kernels want it, while it is in the
// bridge, where it has nothing to lose.
func (h *uplinkHost) rename(to string) {
	h.t.Helper()
	if !strings.Contains(nstest.IP(h.t, "link show "+h.nic), "master") {
		nstest.IP(h.t, "link set "+h.nic+" name "+to)
		h.nic = to
		return
	}
	for _, args := range []string{"link set " + h.nic + " down", "link set " + h.nic + " name " + to, "link set " + to + " up"} {
		nstest.IP(h.t, args)
	}
	h.nic = to
}

// flap has a cable with a loose contact, and a card that its bus loses. A card that is the
// host's own would lose what it has by that, without vnetd too.
func (h *uplinkHost) flap() {
	h.t.Helper()
	if !strings.Contains(nstest.IP(h.t, "link show "+h.nic), "master") && !strings.Contains(nstest.IP(h.t, "-br link"), "br0") {
		return
	}
	for i := range 12 {
		switch i % 3 {
		case 0:
			h.LAN.IP("link set lan0 down")
			time.Sleep(20 * time.Millisecond)
			h.LAN.IP("link set lan0 up")
			h.LAN.IP("-6 addr replace " + nstest.LANHost6 + "/64 dev lan0 nodad")
		case 1:
			nstest.IP(h.t, "link set "+h.nic+" down")
			nstest.IP(h.t, "link set "+h.nic+" up")
		case 2:
			h.unplug()
			time.Sleep(time.Duration(i) * 30 * time.Millisecond)
			h.plug("eno1", uplinkMAC)
		}
	}
}

// start starts vnetd.
func (h *uplinkHost) start() { h.vnetd = h.StartVnetd() }

func (h *uplinkHost) ctl(args ...string) {
	h.t.Helper()
	if err := h.Vnetctl(h.t.Context(), args...).Err(); err != nil {
		h.t.Fatalf("vnetctl %v: %v", args, err)
	}
}

// uplinkMoments are when it happens. They call begin and end of an event, and tell where
// the host's addresses are to be at the end.
var uplinkMoments = map[string]func(h *uplinkHost, begin, end func(h *uplinkHost)) (at string){
	"running": func(h *uplinkHost, begin, end func(h *uplinkHost)) string {
		begin(h)
		h.settle()
		end(h)
		return "br0"
	},
	"restart": func(h *uplinkHost, begin, end func(h *uplinkHost)) string {
		begin(h)
		if err := h.vnetd.Stop(h.t.Context()); err != nil {
			h.t.Fatal(err)
		}
		h.start()
		end(h)
		return "br0"
	},
	"between": func(h *uplinkHost, begin, end func(h *uplinkHost)) string {
		if err := h.vnetd.Stop(h.t.Context()); err != nil {
			h.t.Fatal(err)
		}
		begin(h)
		end(h)
		h.start()
		return "br0"
	},
	"SIGKILL": func(h *uplinkHost, begin, end func(h *uplinkHost)) string {
		begin(h)
		h.vnetd.Kill()
		h.start()
		end(h)
		return "br0"
	},
	"reload": func(h *uplinkHost, begin, end func(h *uplinkHost)) string {
		begin(h)
		h.reload()
		end(h)
		h.reload()
		return "br0"
	},
	"stop": func(h *uplinkHost, begin, end func(h *uplinkHost)) string {
		begin(h)
		h.ctl("stop", "lan")
		end(h)
		return "nic"
	},
	"stop_and_kill": func(h *uplinkHost, begin, end func(h *uplinkHost)) string {
		begin(h)
		h.ctl("stop", "lan")
		h.ctl("undefine", "lan")
		h.vnetd.Kill()
		end(h)
		h.start()
		return "nic"
	},
	"cleanup": func(h *uplinkHost, begin, end func(h *uplinkHost)) string {
		begin(h)
		h.vnetd.Kill()
		_ = h.Cleanup(h.t.Context()) // says so while the uplink is away
		end(h)
		if err := h.Cleanup(h.t.Context()); err != nil {
			h.t.Fatal(err)
		}
		return "nic"
	},
	"start": func(h *uplinkHost, begin, end func(h *uplinkHost)) string {
		begin(h)
		h.ctl("stop", "lan")
		h.ctl("start", "lan")
		end(h)
		return "br0"
	},
	"boot": func(h *uplinkHost, begin, end func(h *uplinkHost)) string {
		h.ctl("stop", "lan")
		h.ctl("enable", "lan")
		h.vnetd.Kill()
		if err := os.RemoveAll("/run/vnetd"); err != nil {
			h.t.Fatal(err)
		}
		h.unplug()
		h.start()
		h.plug("eno1", uplinkMAC)
		nstest.Eventually(h.t, 30*time.Second, "the late card is plugged in", func() error {
			if r := h.Vnetctl(h.t.Context(), "list"); !strings.Contains(r.Stdout, " active ") {
				return errors.New(r.Stdout)
			}
			return nil
		})
		begin(h)
		end(h)
		if h.configure != nil {
			h.configure(h.nic)
		}
		return "br0"
	},
}

// settle gives vnetd the time to do what it should not.
func (h *uplinkHost) settle() { time.Sleep(700 * time.Millisecond) }

func (h *uplinkHost) reload() {
	h.t.Helper()
	if err := h.vnetd.Reload(); err != nil {
		h.t.Fatal(err)
	}
	h.settle()
}

// addressing is what a link has of addresses and routes, as ip(8) shows it, without what
// differs from link to link.
func addressing(t *testing.T, dev string) string {
	t.Helper()
	var lines []string
	for _, args := range []string{"-j addr show dev " + dev, "-d -j route show table all dev " + dev, "-d -j -6 route show table all dev " + dev} {
		var all []map[string]any
		out, err := exec.Command("ip", strings.Fields(args)...).Output()
		if err != nil || json.Unmarshal(out, &all) != nil {
			continue // no such link
		}
		for _, o := range all {
			infos, isLink := o["addr_info"].([]any)
			if !isLink {
				infos = []any{o}
			}
			for _, i := range infos {
				if line := factsOf(i.(map[string]any)); line != "" {
					lines = append(lines, line)
				}
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// factsOf is one address or route, empty for one that each link has of its own.
func factsOf(o map[string]any) string {
	own := fmt.Sprint(o["scope"], o["dst"], o["table"], o["type"])
	if len(o) == 0 || o["scope"] == "link" && o["local"] != nil || strings.Contains(own, "fe80:") || strings.Contains(own, "ff00:") ||
		o["table"] == "local" || o["type"] == "multicast" {
		return ""
	}
	for _, key := range []string{"valid_life_time", "preferred_life_time", "expires"} {
		if n, ok := o[key].(float64); ok {
			o[key] = math.Round(n / 500)
		}
	}
	for _, key := range []string{"label", "dev", "flags", "tentative", "cacheinfo", "metrics"} {
		delete(o, key)
	}
	data, err := json.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// reachable waits until the LAN reaches the host and the host the LAN, by both families,
// and the link has what the host had.
func (h *uplinkHost) reachable(when, want string, at func() string) {
	h.t.Helper()
	nstest.Eventually(h.t, 30*time.Second, when+": the host is reachable", func() error {
		for _, to := range []string{nstest.Uplink, nstest.Uplink6} {
			if out, err := h.LAN.Command(h.t.Context(), "ping", "-c1", "-W1", to).CombinedOutput(); err != nil {
				return fmt.Errorf("the LAN does not reach the host: %w: %s\n%s", err, out, hostShown())
			}
		}
		for _, to := range []string{nstest.LANHost, nstest.LANHost6} {
			if out, err := exec.Command("ping", "-c1", "-W1", to).CombinedOutput(); err != nil {
				return fmt.Errorf("the host does not reach the LAN: %w: %s\n%s", err, out, hostShown())
			}
		}
		if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(addressing(h.t, at()), "\n")); diff != "" {
			return fmt.Errorf("%s has not what the host had (-before +now):\n%s", at(), diff)
		}
		return nil
	})
}

// hostShown is what a failure tells of the host.
func hostShown() string {
	var all strings.Builder
	for _, args := range []string{"-br addr", "-br link show type bridge_slave", "-4 route", "-6 route", "neigh"} {
		out, _ := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
		all.Write(out)
	}
	return all.String()
}

// configureStatic sets a card up as an admin's script does at boot.
func configureStatic(t *testing.T, nic string) {
	t.Helper()
	for _, args := range []string{
		"link set " + nic + " up",
		"addr add " + nstest.Uplink + "/24 dev " + nic,
		"addr add 203.0.113.4/24 dev " + nic + " valid_lft 5000 preferred_lft 4000",
		"addr add 198.51.100.4/24 dev " + nic + " noprefixroute",
		"-6 addr add " + nstest.Uplink6 + "/64 dev " + nic + " nodad metric 77",
		"-6 addr add 2001:db8:ffff::9/64 dev " + nic + " nodad mngtmpaddr noprefixroute valid_lft 9000 preferred_lft 8000",
		"route add default via " + nstest.LANHost + " proto static metric 100",
		"route add 198.18.0.0/24 via " + nstest.LANHost + " table 100",
		"-6 route add default via " + nstest.LANHost6 + " metric 1024",
	} {
		nstest.IP(t, args)
	}
}

// networkdFile is the same host for systemd-networkd.
const networkdFile = `[Match]
Name=eno1 lan9
[Network]
LinkLocalAddressing=ipv6
IPv6AcceptRA=no
[Address]
Address=` + nstest.Uplink + `/24
[Address]
Address=` + nstest.Uplink6 + `/64
DuplicateAddressDetection=none
[Route]
Gateway=` + nstest.LANHost + `
[Route]
Gateway=` + nstest.LANHost6 + `
[Route]
Destination=198.18.0.0/24
Gateway=` + nstest.LANHost + `
Table=100
Metric=7
`

// startNetworkd starts systemd-networkd, and waits until it has set up the card.
func startNetworkd(t *testing.T) {
	t.Helper()
	for path, text := range map[string]string{"/run/systemd/network/10-eno1.network": networkdFile, "/run/systemd/netif/state": ""} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	// It would wait for udev where /sys can be written to.
	script := `mount -o remount,ro /sys; chown -R systemd-network: /run/systemd/netif; exec /lib/systemd/systemd-networkd`
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "unshare", "-m", "sh", "-c", script)
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=debug")
	log, err := os.Create("/run/networkd.log")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		_ = log.Close()
	})
	nstest.Eventually(t, 30*time.Second, "networkd sets up the card", func() error {
		if out := nstest.IP(t, "-4 route show default") + nstest.IP(t, "-6 route show default"); strings.Count(out, "default") != 2 {
			text, _ := os.ReadFile("/run/networkd.log")
			return fmt.Errorf("routes %s; its log:\n%s", out, text)
		}
		return nil
	})
}

// TestUplinkComesAndGoes has an uplink come and go in every way, at every moment: the host
// is reachable at the end, and has what it had.
func TestUplinkComesAndGoes(t *testing.T) {
	nstest.Beside(t)
	for _, manager := range []string{"static", "networkd"} {
		for moment, run := range uplinkMoments {
			for event, e := range uplinkEvents {
				t.Run(manager+"/"+moment+"/"+event, func(t *testing.T) {
					nstest.Run(t, func(t *testing.T) {
						h := &uplinkHost{Lab: nstest.NewLab(t), t: t}
						nstest.IP(t, "link del eno1")
						h.plug("eno1", uplinkMAC)
						if manager == "networkd" {
							startNetworkd(t)
						} else {
							h.configure = func(nic string) { configureStatic(t, nic) }
							h.configure("eno1")
						}
						want := addressing(t, "eno1")
						h.start()
						if err := h.VnetctlInput(t.Context(), uplinkXML, "define", "-").Err(); err != nil {
							t.Fatal(err)
						}
						h.ctl("start", "lan")
						h.reachable("started", want, func() string { return "br0" })
						at := run(h, e.begin, e.end)
						if moment == "start" && event == "renamed" {
							at = "nic" // nobody knows that it was eno1
						}
						h.reachable("at the end", want, func() string {
							if at == "nic" {
								return h.nic
							}
							return at
						})
						if at == "nic" {
							if out := nstest.IP(t, "-br link"); strings.Contains(out, "br0") {
								t.Errorf("the bridge is left:\n%s", out)
							}
						}
					})
				})
			}
		}
	}
}

// TestNetworkdFinishesFirst: what systemd-networkd has put on a card that came stays there
// until networkd is done with the card, for it adds routes that need the addresses.
func TestNetworkdFinishesFirst(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &uplinkHost{Lab: nstest.NewLab(t), t: t, nic: "eno1"}
		state := func(is string) {
			const links = "/run/systemd/netif/links"
			if err := errors.Join(os.MkdirAll(links, 0o755), os.WriteFile(links+"/4711", []byte("ADMIN_STATE="+is+"\n"), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		on := func(dev string) error {
			if out := nstest.IP(t, "-br -4 addr show dev "+dev); !strings.Contains(out, "203.0.113.99/24") {
				return fmt.Errorf("the address is not on %s: %s", dev, out)
			}
			return nil
		}
		h.start()
		if err := h.VnetctlInput(t.Context(), uplinkXML, "define", "-").Err(); err != nil {
			t.Fatal(err)
		}
		h.ctl("start", "lan")
		h.unplug()
		state("configuring")
		came := time.Now()
		nstest.IP(t, "link add eno1 up index 4711 address "+uplinkMAC+" type veth peer name lan0 netns lan")
		nstest.IP(t, "addr add 203.0.113.99/24 dev eno1")
		h.settle()
		if err := on("eno1"); err != nil && time.Since(came) < 4*time.Second { // it is waited for 5 s at most
			t.Error(err)
		}
		state("configured")
		nstest.Eventually(t, 30*time.Second, "the address moves", func() error { return on("br0") })
	})
}
