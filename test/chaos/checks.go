package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// settleLimit is how long vnetd may take, once nothing is broken any more, until all is as it
// should be: what somebody keeps breaking it mends ever more rarely, at the end after half a
// minute.
const settleLimit = 90 * time.Second

// settle waits until all is as was acknowledged, and returns what is not.
func (w *world) settle() error {
	err := w.within(settleLimit, w.asAcknowledged)
	if err != nil {
		return err
	}
	return w.untouched()
}

// within calls check until it returns nil, at most for limit, and then returns the last
// error of a check that had its time.
func (w *world) within(limit time.Duration, check func(ctx context.Context) error) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(300 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(w.t.Context(), actLimit)
		err := check(ctx)
		cancel()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || w.t.Context().Err() != nil {
			return err
		}
	}
}

// asAcknowledged compares the books with what vnetd and the kernel say.
func (w *world) asAcknowledged(ctx context.Context) error {
	var networks []api.Network
	var ports []api.Port
	err := w.watch.with(ctx, func(c *client.Client) (err error) {
		if networks, err = c.Networks(ctx); err != nil {
			return err
		}
		ports, err = c.Ports(ctx)
		return err
	})
	if err != nil {
		return err
	}
	links, err := listLinks(ctx)
	if err != nil {
		return err
	}
	return errors.Join(w.networksHold(ctx, networks), w.portsHold(ports, networks, links), w.linksWanted(networks, ports, links), treeHolds(ctx, networks, ports),
		w.connectionsHold(ctx), w.leasesHold(ctx), w.resolverKnows(), w.doctorIsContent(ctx, slices.ContainsFunc(networks, func(n api.Network) bool { return n.State == api.Failed })))
}

// networksHold compares the books of networks. What may be either is what vnetd says.
func (w *world) networksHold(ctx context.Context, networks []api.Network) error {
	var errs []error
	for _, is := range networks {
		if w.books.networks[is.Name] == nil {
			errs = append(errs, fmt.Errorf("network %s is nobody's", is.Name))
		}
	}
	for _, n := range w.books.networks {
		i := slices.IndexFunc(networks, func(is api.Network) bool { return is.Name == n.name })
		is := api.Network{}
		if i >= 0 {
			is = networks[i]
		}
		// A start that failed is told of until the next one.
		if !n.defined.is(is.Persistent) || !n.active.is(is.Active) || is.State == api.Degraded || is.State == api.Failed && n.active == yes {
			errs = append(errs, fmt.Errorf("network %s: defined %v, active %v by the books; vnetd says persistent %v, active %v, %s %s", n.name, n.defined, n.active, is.Persistent, is.Active, is.State, is.LastError))
			continue
		}
		errs = append(errs, w.wordHolds(ctx, n))
	}
	return errors.Join(errs...)
}

// wordHolds holds that the document of a network is one that was acknowledged last.
func (w *world) wordHolds(ctx context.Context, n *netBook) error {
	if len(n.words) == 0 {
		return nil
	}
	return w.watch.with(ctx, func(c *client.Client) error {
		for _, inactive := range []bool{false, true} {
			xml, err := c.Network(n.name).XML(ctx, inactive)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(n.words, func(word string) bool { return strings.Contains(xml, word+"<") }) {
				return fmt.Errorf("the document of %s (inactive %v) has none of %v:\n%s", n.name, inactive, n.words, xml)
			}
		}
		return nil
	})
}

// portsHold compares the books of ports with what vnetd knows, and that with the kernel.
func (w *world) portsHold(ports []api.Port, networks []api.Network, links map[string]link) error {
	known := make(map[string]api.Port)
	stray := make(map[string]int) // by network
	var errs []error
	for _, p := range ports {
		known[p.UUID] = p
		if w.books.ports[p.UUID] != nil {
			continue
		}
		stray[p.Network]++
		if n := w.books.networks[p.Network]; n == nil || stray[p.Network] > n.stray || p.Lifetime != api.LifetimePersistent {
			errs = append(errs, fmt.Errorf("port %s (%s on %s) is nobody's", p.UUID, p.IfName, p.Network))
		}
	}
	for _, p := range w.books.ports {
		is, there := known[p.uuid]
		switch {
		case !p.state.is(there):
			errs = append(errs, fmt.Errorf("port %s (%s on %s) is not known", p.uuid, p.ifname, p.network))
			continue
		case !there:
			continue
		case is.IfName != p.ifname || is.Network != p.network:
			errs = append(errs, fmt.Errorf("port %s was %s on %s and is %s on %s", p.uuid, p.ifname, p.network, is.IfName, is.Network))
		}
		bridge := ""
		if i := slices.IndexFunc(networks, func(n api.Network) bool { return n.Name == p.network }); i >= 0 && networks[i].Active {
			bridge = networks[i].Bridge
		}
		if l, ok := links[is.IfName]; !ok || l.Master != bridge {
			errs = append(errs, fmt.Errorf("port %s of %s should be on bridge %q: it is there %v, on %q", is.IfName, p.network, bridge, ok, l.Master))
		}
	}
	return errors.Join(errs...)
}

// linksWanted holds that no link has vnetd's mark but those of active networks and of ports.
func (w *world) linksWanted(networks []api.Network, ports []api.Port, links map[string]link) error {
	var errs []error
	for _, l := range links {
		if !strings.HasPrefix(l.Alias, "vnetd ") {
			continue
		}
		wanted := slices.ContainsFunc(ports, func(p api.Port) bool { return p.IfName == l.Name }) ||
			slices.ContainsFunc(networks, func(n api.Network) bool { return n.Active && n.Bridge == l.Name })
		if !wanted {
			errs = append(errs, fmt.Errorf("link %s (%s) is of nothing that is there", l.Name, l.Alias))
		}
	}
	return errors.Join(errs...)
}

// leasesHold holds that every acknowledged lease is known, and no address given to two.
func (w *world) leasesHold(ctx context.Context) error {
	var errs []error
	known := make(map[leaseKey]api.Lease)
	for k := range bases {
		err := w.watch.with(ctx, func(c *client.Client) error {
			all, err := c.Network(baseName(k)).Leases(ctx)
			for _, l := range all {
				key := leaseKey{baseName(k), l.Address}
				if _, twice := known[key]; twice {
					errs = append(errs, fmt.Errorf("%s on %s is leased twice", l.Address, key.network))
				}
				known[key] = l
			}
			return err
		})
		errs = append(errs, err)
	}
	for key, l := range w.books.leases {
		if is, ok := known[key]; (!ok || is.MAC != l.mac) && time.Now().Before(l.until) {
			errs = append(errs, fmt.Errorf("%s of %s (%s) on %s is not leased to it: known %v, to %q", key.addr, l.hostname, l.mac, key.network, ok, is.MAC))
		}
	}
	return errors.Join(append(errs, w.namesHold())...)
}

// resolverKnows holds that the host's resolver asks vnetd for names of guests. A link that is
// there and that it does not know itself it has missed.
func (w *world) resolverKnows() error {
	var errs []error
	for k := range bases {
		n, address := w.books.network(baseName(k)), fmt.Sprintf("10.99.%d.1", k)
		if told, err := w.resolved.Resolvectl("dns", n.bridge); err == nil && n.active == yes && !strings.Contains(told, address) {
			errs = append(errs, fmt.Errorf("resolved does not know %s:\n%s", address, told))
		}
	}
	return errors.Join(errs...)
}

// namesHold has some guests ask for their own names.
func (w *world) namesHold() error {
	var errs []error
	for n := 0; n < guests; n += 10 {
		g := w.guests[n]
		if addr := g.address(); g.port != nil && addr.IsValid() {
			errs = append(errs, g.resolves(g.name+"."+g.network+".test.", addr.String()))
		}
	}
	return errors.Join(errs...)
}

// doctorIsContent holds that vnetctl doctor finds nothing amiss, but that a network could not
// be started where failed says so.
func (w *world) doctorIsContent(ctx context.Context, failed bool) error {
	r := w.lab.Vnetctl(ctx, "doctor", "--json")
	var said struct {
		Findings []struct{ Check, Severity, Message, Evidence string }
	}
	if err := json.Unmarshal([]byte(r.Stdout), &said); err != nil {
		return fmt.Errorf("doctor: %w: %+v", err, r)
	}
	var errs []error
	for _, f := range said.Findings {
		if f.Check == "name-service" {
			continue // of the machine's libc, which knows no resolved of ours
		}
		if f.Severity != string(api.SeverityInfo) && !(failed && f.Check == "networks") {
			errs = append(errs, fmt.Errorf("doctor finds %s: %s: %s (%s)", f.Severity, f.Check, f.Message, f.Evidence))
		}
	}
	return errors.Join(errs...)
}

// untouched holds that vnetd finds nothing to mend when it looks at all networks anew, and
// resolves what may be either.
func (w *world) untouched() error {
	ctx, cancel := context.WithTimeout(w.t.Context(), actLimit)
	defer cancel()
	before, err := repairs()
	if err != nil {
		return err
	}
	if err := w.watch.with(ctx, func(c *client.Client) error { return c.Reload(ctx) }); err != nil {
		return fmt.Errorf("reloading: %w", err)
	}
	after, err := repairs()
	if err != nil {
		return err
	}
	for name, n := range after {
		if n > before[name] {
			err = errors.Join(err, fmt.Errorf("all was in order, and a reload mended something: %s from %d to %d", name, before[name], n))
		}
	}
	return errors.Join(err, w.resolve(ctx))
}

// resolve has the books say what is so of what may be either.
func (w *world) resolve(ctx context.Context) error {
	return w.watch.with(ctx, func(c *client.Client) error {
		networks, err := c.Networks(ctx)
		if err != nil {
			return err
		}
		ports, err := c.Ports(ctx)
		if err != nil {
			return err
		}
		for _, n := range w.books.networks {
			n.defined, n.active, n.stray = no, no, 0
			for _, is := range networks {
				if is.Name == n.name {
					n.defined, n.active = truthOf(is.Persistent), truthOf(is.Active)
				}
			}
		}
		for _, is := range ports {
			if w.books.ports[is.UUID] == nil {
				w.books.port(portBook{uuid: is.UUID, network: is.Network, ifname: is.IfName, state: yes})
			}
		}
		for uuid, p := range w.books.ports {
			p.state = truthOf(slices.ContainsFunc(ports, func(is api.Port) bool { return is.UUID == uuid }))
			if p.state == no {
				delete(w.books.ports, uuid)
			}
		}
		return nil
	})
}

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// repairs are vnetd's counters of what it has mended.
func repairs() (map[string]int, error) {
	all := make(map[string]int)
	err := eachMetric(func(name string, value float64) {
		if strings.Contains(name, "_repairs_total") {
			all[name] = int(value)
		}
	})
	return all, err
}

// eachMetric calls f with each of vnetd's metrics.
func eachMetric(f func(name string, value float64)) error {
	text, err := fetch(metricsAddress)
	if err != nil {
		return fmt.Errorf("reading the metrics: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		at := strings.LastIndexByte(lines.Text(), ' ')
		if at < 0 || lines.Text()[0] == '#' {
			continue
		}
		if value, err := strconv.ParseFloat(lines.Text()[at+1:], 64); err == nil {
			f(lines.Text()[:at], value)
		}
	}
	return nil
}

// link is what is asked of a link.
type link struct {
	Name   string `json:"ifname"`
	Master string `json:"master"`
	Alias  string `json:"ifalias"`
}

// listLinks lists all links by name.
func listLinks(ctx context.Context) (map[string]link, error) {
	out, err := exec.CommandContext(ctx, "ip", "-j", "link", "show").Output()
	if err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	var all []link
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	links := make(map[string]link)
	for _, l := range all {
		links[l.Name] = l
	}
	return links, nil
}

// kernel lists the links, and the rules of others and of vnetd, in the order of the alphabet.
func (w *world) kernel() (lines []string, err error) {
	ctx := w.t.Context()
	for _, list := range []func() (string, error){
		func() (string, error) { return nstest.Links(ctx) },
		func() (string, error) { return nstest.Rules(ctx, "iptables-save") },
		func() (string, error) { return nstest.Rules(ctx, "ip6tables-save") },
		func() (string, error) {
			out, err := exec.CommandContext(ctx, "nft", "-s", "list", "tables").Output()
			return string(out), err
		},
	} {
		text, err := list()
		if err != nil {
			return nil, err
		}
		lines = append(lines, strings.Split(text, "\n")...)
	}
	slices.Sort(lines)
	return lines, nil
}
