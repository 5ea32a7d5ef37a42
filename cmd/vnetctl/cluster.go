package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// clusterDir is where a cluster's authority and certificates are, where nothing else is said.
const clusterDir = "/etc/vnetd/cluster"

// clusterCommand works on the store of a cluster, not on vnetd.
func clusterCommand(a *app) *cobra.Command {
	var where api.ClusterRequest
	cmd := group("cluster", "Manage clusters: hosts that share networks",
		clusterInitCommand(a, &where), clusterAddHostCommand(a, &where), clusterHostsCommand(a, &where), clusterStatusCommand(a, &where),
		clusterForgetCommand(a, &where), clusterExportCommand(a, &where), clusterRestoreCommand(a, &where))
	set := cmd.PersistentFlags()
	set.StringVar(&where.Cluster, "cluster", "", "the `NAME` of the cluster, if the configuration has several")
	set.StringVar(&where.Config, "config", "", "the `FILE` with the section [cluster.NAME]; /etc/vnetd/vnetd.toml, or what init wrote into the directory")
	set.StringVar(&where.Dir, "dir", clusterDir, "the `DIRECTORY` of the cluster's authority and of what it signed")
	return cmd
}

// clusterSubcommand returns a command that takes from low to high arguments and has
// something done with the store: prepare makes the request, and print prints what came of it.
func clusterSubcommand[T any](a *app, where *api.ClusterRequest, use, short string, count int, prepare func(args []string, req *api.ClusterRequest) error, print func(T) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, DisableFlagsInUseLine: true, Args: countArgs(count, count)}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := *where
		if err := prepare(args, &req); err != nil {
			return newUsageError(cmd, err.Error())
		}
		var done T
		if err := callCluster(cmd.Context(), a, req, &done); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(done)
		}
		return print(done)
	}
	return cmd
}

// callCluster has something done with the store.
func callCluster(ctx context.Context, a *app, req api.ClusterRequest, result any) error {
	dir, err := filepath.Abs(req.Dir)
	if err != nil {
		return err
	}
	req.Dir = dir
	text, err := a.cluster(ctx, req)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, result)
}

func clusterInitCommand(a *app, where *api.ClusterRequest) *cobra.Command {
	var flags api.ClusterRequest
	cmd := clusterSubcommand(a, where, "init NAME --endpoint URL... [flags]", "Make a cluster: its certificates, and what etcd needs", 1,
		func(args []string, req *api.ClusterRequest) error {
			req.Do, req.Cluster, req.Endpoints, req.Certificates, req.Insecure = api.ClusterInit, args[0], flags.Endpoints, flags.Certificates, flags.Insecure
			if len(req.Endpoints) == 0 {
				return errors.New("--endpoint is missing: want a URL such as https://10.0.0.1:2379 for each server of etcd")
			}
			if req.Certificates && req.Insecure {
				return errors.New("--insecure makes no certificates")
			}
			return nil
		},
		func(made api.ClusterMade) error { return printClusterMade(a, made, &flags) })
	cmd.Flags().StringArrayVar(&flags.Endpoints, "endpoint", nil, "the `URL` at which hosts reach a server of etcd, https://10.0.0.1:2379; may be repeated")
	cmd.Flags().BoolVar(&flags.Certificates, "certificates", false, "make the certificates alone: etcd does not run yet")
	cmd.Flags().BoolVar(&flags.Insecure, "insecure", false, "without certificates, by http:// (on one host, for tests)")
	return cmd
}

// printClusterMade prints what was made, and what is to be done next.
func printClusterMade(a *app, made api.ClusterMade, flags *api.ClusterRequest) error {
	printFiles(a, made.Files)
	if !flags.Certificates {
		state := "is there already"
		if made.New {
			state = "is made"
		}
		a.printf("cluster %s %s, its UUID is %s\n", table.Printable(made.Cluster), state, table.Printable(made.UUID))
		a.printSection("next, for each host", table.Bold, []string{"vnetctl cluster add-host HOST --underlay ADDRESS"})
		return a.err
	}
	for _, s := range made.Servers {
		at := "root@" + bracketed(s.Host)
		a.printSection("etcd at "+s.Endpoint, table.Bold, []string{
			"ssh root@" + s.Host + " mkdir -p /etc/etcd",
			"scp -p " + s.Dir + "/* " + at + ":/etc/etcd/",
			"ssh root@" + s.Host + " \"chown -R etcd: /etc/etcd && cp /etc/etcd/etcd.env /etc/default/etcd && systemctl restart --no-block etcd\"",
		})
	}
	line := "vnetctl cluster init " + made.Cluster
	for _, e := range flags.Endpoints {
		line += " --endpoint " + e
	}
	if made.Dir != clusterDir {
		line += " --dir " + made.Dir
	}
	a.printSection("then", table.Bold, []string{line})
	return a.err
}

// printFiles prints which files were made.
func printFiles(a *app, files []string) {
	for _, file := range files {
		a.printf("made %s\n", table.Printable(file))
	}
}

// bracketed is a host as scp(1) has it.
func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

func clusterAddHostCommand(a *app, where *api.ClusterRequest) *cobra.Command {
	var underlay string
	var define bool
	cmd := clusterSubcommand(a, where, "add-host HOST --underlay ADDRESS [flags]", "Let a host into the cluster: its certificate, rights and configuration", 1,
		func(args []string, req *api.ClusterRequest) (err error) {
			req.Do, req.Host, req.MayDefine = api.ClusterAddHost, args[0], define
			if underlay == "" {
				return errors.New("--underlay is missing: want the address at which the others reach the host")
			}
			if req.Underlay, err = netip.ParseAddr(underlay); err != nil {
				return fmt.Errorf("--underlay %q is not an address, want one like 10.0.0.1", underlay)
			}
			return nil
		},
		func(kit api.ClusterHostKit) error {
			printFiles(a, kit.Files)
			a.printf("host %s may join cluster %s\n", table.Printable(kit.Host), table.Printable(kit.Cluster))
			if kit.Dir != "" {
				a.printSection("to the host, once", table.Bold, []string{
					"ssh root@" + underlay + " mkdir -p " + clusterDir,
					"scp -p " + kit.Dir + "/* root@" + bracketed(underlay) + ":" + clusterDir + "/",
					"ssh root@" + underlay + " \"chown vnetd: " + clusterDir + "/host.key && cat " + clusterDir + "/vnetd.toml >>/etc/vnetd/vnetd.toml && systemctl restart vnetd\"",
				})
			}
			a.printSection("the section of its vnetd.toml", table.Bold, strings.Split(strings.TrimSpace(kit.Config), "\n"))
			return a.err
		})
	cmd.Flags().StringVar(&underlay, "underlay", "", "the `ADDRESS` at which the others reach the host: tunnels end there")
	cmd.Flags().BoolVar(&define, "may-define", false, "the host may change definitions of networks for all, too")
	return cmd
}

func clusterHostsCommand(a *app, where *api.ClusterRequest) *cobra.Command {
	return plainCommand("hosts", "List the hosts of the cluster", 0, 0, func(ctx context.Context, _ []string) error {
		req := *where
		req.Do = api.ClusterHosts
		var list api.ClusterHostList
		if err := callCluster(ctx, a, req, &list); err != nil {
			return err
		}
		here, _ := clustersHere(ctx, a, list.Cluster) // all else is still told
		for i, h := range list.Hosts {
			for _, c := range here {
				j := slices.IndexFunc(c.Hosts, func(o api.ClusterHost) bool { return o.Name == h.Name })
				if j >= 0 {
					list.Hosts[i].Seen = c.Hosts[j].Seen
				}
			}
		}
		if a.json {
			return a.printJSON(list)
		}
		return printClusterHosts(a, list)
	})
}

// clustersHere asks the vnetd of this host how it stands to the others of a cluster, or of
// all.
func clustersHere(ctx context.Context, a *app, name string) (all []api.Cluster, err error) {
	d, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	all, err = client.Clusters(ctx, d)
	return slices.DeleteFunc(all, func(c api.Cluster) bool { return name != "" && c.Name != name }), err
}

// printClusterHosts prints the hosts as a table.
func printClusterHosts(a *app, list api.ClusterHostList) error {
	rows := make([][]table.Cell, 0, len(list.Hosts))
	for _, h := range list.Hosts {
		row := hostCells(a, h.Name, h.State, h.Underlay, h.Version, h.Seen)
		rows = append(rows, append(row, texts(strconv.Itoa(h.Guests), strconv.Itoa(h.Leases), strconv.Itoa(h.Blocks), strconv.Itoa(h.MTU))...))
	}
	if err := a.printTable("HOST STATE UNDERLAY VERSION GUESTS LEASES BLOCKS MTU", "MTU LEASES BLOCKS|VERSION GUESTS UNDERLAY", rows); err != nil {
		return err
	}
	if len(list.Waiting) > 0 {
		a.printFolded("", 0, 0, table.Yellow, "the cluster was made anew: nobody claims addresses until \"vnetctl cluster restore\" was given on these hosts, or they are forgotten: "+strings.Join(list.Waiting, ", "))
	}
	return a.err
}

// hostCells are the cells of a host: its name, state, underlay address and version.
func hostCells(a *app, name, state string, underlay netip.Addr, version string, seen *time.Time) []table.Cell {
	address, colour := "", table.Yellow
	if underlay.IsValid() {
		address = underlay.String()
	}
	switch {
	case state == api.HostAlive, state == api.HostSelf:
		colour = table.Green
	case seen != nil:
		state += " for " + remainder(a.now().Sub(*seen))
	}
	row := texts(table.Printable(name), state, address, table.Printable(version))
	row[1].Colour = colour
	return row
}

// clusterStatusCommand asks the vnetd of this host, and the store where that does not run or
// is no host of the cluster.
func clusterStatusCommand(a *app, where *api.ClusterRequest) *cobra.Command {
	return plainCommand("status", "Show how this host stands to the cluster, or what the store says where it is no host of it", 0, 0, func(ctx context.Context, _ []string) error {
		all, err := clustersHere(ctx, a, where.Cluster)
		if err != nil && !errors.Is(err, api.NotRunning) && !errors.Is(err, api.Unsupported) {
			return err
		}
		if len(all) == 0 || where.Config != "" {
			if all, err = clustersOfStore(ctx, a, *where); err != nil {
				return err
			}
		}
		if a.json {
			return a.printJSON(all)
		}
		for i, c := range all {
			if i > 0 {
				a.printf("\n")
			}
			if err := printClusterStatus(a, c); err != nil {
				return err
			}
		}
		return a.err
	})
}

// clustersOfStore asks the store.
func clustersOfStore(ctx context.Context, a *app, req api.ClusterRequest) ([]api.Cluster, error) {
	req.Do = api.ClusterHosts
	var list api.ClusterHostList
	if err := callCluster(ctx, a, req, &list); err != nil {
		return nil, err
	}
	c := api.Cluster{Name: list.Cluster, Connected: true, Revision: list.Revision, Hosts: []api.ClusterHost{}}
	for _, h := range list.Hosts {
		c.Hosts = append(c.Hosts, api.ClusterHost{Name: h.Name, State: h.State, Underlay: h.Underlay, Version: h.Version})
	}
	return []api.Cluster{c}, nil
}

// printClusterStatus prints how this host stands to a cluster.
func printClusterStatus(a *app, c api.Cluster) error {
	state := "reached"
	if !c.Connected {
		state = "away"
	}
	if c.Since != nil {
		state += " since " + c.Since.In(a.now().Location()).Format(time.DateTime)
	}
	fields := []field{{"cluster", table.Printable(c.Name)}}
	if c.Host != "" { // vnetd tells
		fields = append(fields, field{"this host", table.Printable(c.Host)})
	}
	fields = append(fields, field{"store", state})
	if c.Reason != "" {
		fields = append(fields, field{"reason", oneLine(c.Reason)})
	}
	if c.Lost != "" {
		fields = append(fields, field{"lost", "the store was " + table.Printable(c.Lost)})
	}
	fields = append(fields, field{"revision", strconv.FormatInt(c.Revision, 10)})
	if c.Backlog > 0 {
		fields = append(fields, field{"to be told", plural(c.Backlog, "lease")})
	}
	if err := a.printFields(fields); err != nil {
		return err
	}
	rows := make([][]table.Cell, 0, len(c.Hosts))
	for _, h := range c.Hosts {
		rows = append(rows, hostCells(a, h.Name, h.State, h.Underlay, h.Version, h.Seen))
	}
	a.printf("\n")
	return a.printTable("HOST STATE UNDERLAY VERSION", "|VERSION UNDERLAY", rows)
}

func clusterForgetCommand(a *app, where *api.ClusterRequest) *cobra.Command {
	var yes, force bool
	cmd := plainCommand("forget HOST [--yes] [--force]", "Remove all that a host has in the cluster, its addresses and rights: the host must be off", 1, 1,
		func(ctx context.Context, args []string) error {
			req := *where
			req.Do, req.Host, req.Force = api.ClusterForget, args[0], force
			if !yes {
				if err := askForget(ctx, a, req); err != nil {
					return err
				}
			}
			var done api.ClusterForgotten
			if err := callCluster(ctx, a, req, &done); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(done)
			}
			a.printf("host %s is forgotten, %s\n", table.Printable(done.Host), plural(done.Keys, "key"))
			return a.err
		})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&force, "force", false, "also a host that is alive")
	return cmd
}

// askForget asks whether a host is to be forgotten.
func askForget(ctx context.Context, a *app, req api.ClusterRequest) error {
	if !a.asks {
		return errors.New("what the host gave its guests is given to others then; --yes says that it is off")
	}
	req.Do = api.ClusterHosts
	var list api.ClusterHostList
	if err := callCluster(ctx, a, req, &list); err != nil {
		return err
	}
	for _, h := range list.Hosts {
		if h.Name == req.Host {
			a.tell(fmt.Sprintf("host %s is %s, with %s, %s and %s of addresses", h.Name, h.State, plural(h.Guests, "guest"), plural(h.Leases, "lease"), plural(h.Blocks, "block")))
		}
	}
	return a.confirm("Is host "+quote(req.Host)+" off, with its guests? Forget it?", "not forgotten; --yes does not ask")
}

func clusterExportCommand(a *app, where *api.ClusterRequest) *cobra.Command {
	return plainCommand("export FILE|-", "Write all that the cluster's store has to a file, as JSON", 1, 1, func(ctx context.Context, args []string) error {
		req := *where
		req.Do = api.ClusterExport
		var keys api.ClusterKeys
		if err := callCluster(ctx, a, req, &keys); err != nil {
			return err
		}
		if args[0] == "-" || a.format != nil {
			return a.printJSON(keys)
		}
		if err := writeExport(args[0], keys); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(map[string]any{"cluster": keys.Cluster, "revision": keys.Revision, "keys": len(keys.Keys)})
		}
		a.printf("cluster %s at revision %d: %s\n", table.Printable(keys.Cluster), keys.Revision, plural(len(keys.Keys), "key"))
		return a.err
	})
}

// writeExport writes a file, which only its owner may read: it names all guests.
func writeExport(path string, keys api.ClusterKeys) error {
	text, err := json.MarshalIndent(keys, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}

func clusterRestoreCommand(a *app, where *api.ClusterRequest) *cobra.Command {
	var yes bool
	cmd := plainCommand("restore [FILE|-] [--yes]", "Bring back what the cluster's store lost: the cluster, by what export wrote, or what is this host's", 0, 1, func(ctx context.Context, args []string) error {
		if len(args) == 0 {
			return restoreHost(ctx, a, where.Cluster)
		}
		text, err := a.readFile(args[0])
		if err != nil {
			return err
		}
		req := *where
		req.Do, req.Keys = api.ClusterRestore, new(api.ClusterKeys)
		if err := json.Unmarshal(text, req.Keys); err != nil {
			return fmt.Errorf("%s is no export of a cluster: %w", args[0], err)
		}
		if err := a.confirmRestore(req.Keys.Cluster, yes, args[0] == "-"); err != nil {
			return err
		}
		var done api.ClusterRestored
		if err := callCluster(ctx, a, req, &done); err != nil {
			return err
		}
		return printRestored(a, done)
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// confirmRestore asks whether a cluster is to be made anew, unless the answer is yes, or
// standard input has something else.
func (a *app) confirmRestore(cluster string, yes, taken bool) error {
	switch {
	case yes:
		return nil
	case !a.asks || taken:
		return errors.New("all hosts have to write anew what is theirs then; --yes says that the store lost the cluster")
	}
	return a.confirm("Have all hosts of cluster "+quote(cluster)+" write anew what is theirs?", "nothing is restored; --yes does not ask")
}

// How long a host may take to write what is its own, and how often is looked.
const (
	restoreLimit = 30 * time.Second
	restorePause = 100 * time.Millisecond
)

// restoreHost has the vnetd of this host write anew what is its own, and waits until it has.
func restoreHost(ctx context.Context, a *app, name string) error {
	all, err := clustersHere(ctx, a, name)
	switch {
	case err != nil:
		return err
	case len(all) == 0:
		return &client.Error{Kind: api.NotFound, Message: "the vnetd of this host is in no such cluster"}
	case len(all) > 1:
		return errors.New("this host is in several clusters: say which by --cluster")
	}
	d, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if err := client.RestoreCluster(ctx, d, all[0].Name); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, restoreLimit)
	defer cancel()
	for {
		now, err := clustersHere(ctx, a, all[0].Name)
		if err == nil && len(now) == 1 && now[0].Connected {
			return printHostRestored(a, now[0])
		}
		select {
		case <-time.After(restorePause):
		case <-ctx.Done():
			if len(now) == 1 {
				err = errors.New(now[0].Reason)
			}
			return fmt.Errorf("host %s has not written what is its own yet: %w", quote(all[0].Host), err)
		}
	}
}

// printHostRestored prints that a host is back.
func printHostRestored(a *app, c api.Cluster) error {
	if a.json {
		return a.printJSON(c)
	}
	a.printf("host %s has written what is its own into cluster %s\n", table.Printable(c.Host), table.Printable(c.Name))
	return a.err
}

// printRestored prints what became of keys; conflicts make the exit code.
func printRestored(a *app, done api.ClusterRestored) error {
	if a.json {
		if err := a.printJSON(done); err != nil {
			return err
		}
	} else {
		a.printf("the cluster is made anew, epoch %d; written: %s\n", done.Epoch, plural(len(done.Written), "key"))
		if len(done.Waiting) > 0 {
			a.printFolded("", 0, 0, table.Plain, "next: \"vnetctl cluster restore\" on each of these hosts, until which nobody claims addresses: "+strings.Join(done.Waiting, ", "))
		}
		for _, c := range done.Conflicts {
			a.printf("conflict: %s\n  the store has %s\n  the file has  %s\n", table.Printable(c.Key), table.Printable(c.Has), table.Printable(c.Wants))
		}
	}
	if a.err == nil && len(done.Conflicts) > 0 {
		return &exitError{exitConflict}
	}
	return a.err
}

// whereCommand asks vnetd for the guests of this host, and the store for those of all
// hosts. One of the two is enough.
func whereCommand(a *app) *cobra.Command {
	req := api.ClusterRequest{Do: api.ClusterWhere}
	cmd := plainCommand("where MAC|NAME|ADDRESS [flags]", "Find the host, network and port of a guest", 1, 1, func(ctx context.Context, args []string) error {
		here, local := guestsHere(ctx, a, args[0])
		var all api.ClusterFound
		req.What = args[0]
		store := callCluster(ctx, a, req, &all)
		found := merge(all, here)
		if store == nil && errors.Is(local, api.NotRunning) {
			local = nil // the store has what hosts have
		}
		if errors.Is(store, api.NotFound) && req.Cluster == "" && req.Config == "" {
			store = nil // there is no cluster
		}
		if err := errors.Join(local, store); err != nil && len(found) == 0 {
			return err
		} else if err != nil {
			a.tell("only a part is known: " + err.Error())
		}
		if len(found) == 0 {
			return &client.Error{Kind: api.NotFound, Message: fmt.Sprintf("no guest has the MAC address, name or address %q", args[0])}
		}
		return printWhere(a, found)
	})
	cmd.Flags().StringVar(&req.Cluster, "cluster", "", "the `NAME` of the cluster, if there are several")
	cmd.Flags().StringVar(&req.Config, "config", "", "the `FILE` with the section [cluster.NAME]; /etc/vnetd/vnetd.toml")
	cmd.Flags().StringVar(&req.Dir, "dir", clusterDir, "the `DIRECTORY` of the administrator's certificate")
	return cmd
}

// guestsHere finds the ports of this host that have a MAC address, a name or an address.
func guestsHere(ctx context.Context, a *app, what string) (found []api.ClusterGuest, err error) {
	d, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	ports, err := d.Ports(ctx)
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	for _, p := range ports {
		if portIs(p, what) {
			found = append(found, api.ClusterGuest{
				Host: host, Network: p.Network, MAC: p.MAC, Name: p.Name, Addresses: p.Addresses, State: "here", Port: p.IfName,
			})
		}
	}
	return found, nil
}

// portIs reports whether a port is that of the guest that is looked for.
func portIs(p api.Port, what string) bool {
	if addr, err := netip.ParseAddr(what); err == nil {
		return slices.Contains(p.Addresses, addr)
	}
	return strings.EqualFold(p.MAC, strings.ReplaceAll(what, "-", ":")) || strings.EqualFold(p.Name, what) ||
		slices.ContainsFunc(p.Aliases, func(alias string) bool { return strings.EqualFold(alias, what) })
}

// merge adds what is known of this host to what the store has.
func merge(all api.ClusterFound, here []api.ClusterGuest) []api.ClusterGuest {
	found := slices.Clone(all.Guests)
	for _, g := range here {
		g.Host = cmp.Or(all.Self, g.Host)
		i := slices.IndexFunc(found, func(o api.ClusterGuest) bool {
			return o.Host == g.Host && o.Network == g.Network && strings.EqualFold(o.MAC, g.MAC)
		})
		if i < 0 {
			found = append(found, g)
			continue
		}
		found[i].Port = g.Port
	}
	return found
}

// printWhere prints guests.
func printWhere(a *app, found []api.ClusterGuest) error {
	if a.json {
		return a.printJSON(found)
	}
	rows := make([][]table.Cell, 0, len(found))
	for _, g := range found {
		rows = append(rows, texts(table.Printable(g.Host), g.Network, table.Printable(g.Name), g.MAC, joined(g.Addresses), cmp.Or(g.State, "off"), g.Port))
	}
	return a.printTable("HOST NETWORK NAME MAC ADDRESSES STATE PORT", "STATE MAC|NAME", rows)
}
