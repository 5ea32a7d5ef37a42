package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/document"
	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

func editCommand(a *app) *cobra.Command {
	return a.command("edit NET", "Change a network's definition in an editor", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error { return edit(ctx, a, d, args[0]) })
}

// edit has the user change a definition until vnetd takes it or the user gives up, or
// somebody else has changed it meanwhile. A text that is not taken is kept in a file.
func edit(ctx context.Context, a *app, d *client.Client, network string) (err error) {
	before, err := d.Network(network).XML(ctx, true)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vnetctl-")
	if err != nil {
		return err
	}
	// Its name tells editors what it is.
	file := filepath.Join(dir, "network.xml")
	keep := false
	defer func() {
		if !keep {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
		return err
	}
	answers := bufio.NewReader(a.stdin)
	for {
		if err := openEditor(ctx, a, file); err != nil {
			return err
		}
		after, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if string(after) == before {
			_, err := fmt.Fprintf(a.stderr, "vnetctl: network %s is left as it is\n", network)
			return err
		}
		now, err := d.Network(network).XML(ctx, true)
		if err == nil && document.Definition(now) != document.Definition(before) {
			keep = true
			return fmt.Errorf("network %s was changed by somebody else meanwhile: the text is kept in %s, and \"vnetctl define %[2]s\" replaces what there is by it", table.Printable(network), file)
		}
		var done api.Defined
		if err == nil {
			done, err = d.DefineNetwork(ctx, string(after), api.DefineOptions{})
		}
		if err == nil {
			return edited(a, done)
		}
		again, asked := again(a, err, answers)
		if !again {
			keep = true
			return errors.Join(err, asked, fmt.Errorf("the text is kept in %s", file))
		}
	}
}

// edited tells the user what became of a network.
func edited(a *app, done api.Defined) error {
	text := fmt.Sprintf("vnetctl: network %s is changed\n", table.Printable(done.Network.Name))
	for _, line := range done.Pending {
		text += fmt.Sprintf("vnetctl: pending, at its next start: %s\n", table.Printable(line))
	}
	_, err := io.WriteString(a.stderr, text)
	return err
}

// again shows why the text was not taken and asks whether it is to be edited
// again. The end of the input is a no.
func again(a *app, fault error, answers *bufio.Reader) (bool, error) {
	if _, err := fmt.Fprintf(a.stderr, "vnetctl: %s\nEdit again? [Y/n] ", strings.Join(strings.Split(fault.Error(), "\n"), "\n  ")); err != nil {
		return false, err
	}
	answer, err := answers.ReadString('\n')
	if err != nil {
		return false, nil
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "" || answer == "y" || answer == "yes", nil
}

// openEditor runs the user's editor on a file: $VISUAL, $EDITOR or vi, which may
// have arguments, as the shell reads them.
func openEditor(ctx context.Context, a *app, file string) error {
	editor := cmp.Or(os.Getenv("VISUAL"), os.Getenv("EDITOR"), "vi")
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", editor+` "$1"`, "sh", file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, a.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running the editor %q: %w", editor, err)
	}
	return nil
}

// newNetwork is what a new network shall be, and what is done with it.
type newNetwork struct {
	mode, subnet, ipv6, domain, dev, from string
	start, enable                         bool
}

func newCommand(a *app) *cobra.Command {
	var w newNetwork
	var cmd *cobra.Command
	cmd = a.command("new NAME [--mode MODE] [--subnet CIDR] [--ipv6 CIDR] [--domain DOMAIN] [--dev DEVICE] [--from NET] [--start] [--enable]",
		"Define a network without XML, on a subnet that is free", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			doc, left, err := w.document(ctx, d, a.host, args[0])
			if fault, ok := errors.AsType[*wordError](err); ok {
				return newUsageError(cmd, fault.Error())
			}
			if err != nil {
				return err
			}
			return w.define(ctx, a, d, doc, left)
		})
	set := cmd.Flags()
	set.StringVar(&w.mode, "mode", "", "what becomes of guests' packets: "+strings.Join(document.Modes(), ", ")+"; nat unless --from says another")
	set.StringVar(&w.subnet, "subnet", "", "IPv4 of it, as 192.168.50.0/24, or none, or auto for a free one, which is chosen without it")
	set.StringVar(&w.ipv6, "ipv6", "", "IPv6 of it, as fd00:50::/64, or none, or auto for a local one of its own; none without it")
	set.StringVar(&w.domain, "domain", "", "the DNS domain of its guests")
	set.StringVar(&w.dev, "dev", "", "the only interface that leads out, or in mode bridge the interface or bridge that leads to the LAN")
	set.StringVar(&w.from, "from", "", "begin with what the network `NET` is, as copy does")
	set.BoolVar(&w.start, "start", false, "start it")
	set.BoolVar(&w.enable, "enable", false, "start it with the host")
	values := cobra.FixedCompletions(document.Modes(), cobra.ShellCompDirectiveNoFileComp)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("mode", values))
	return cmd
}

// wordError is a fault in what the user asked for.
type wordError struct{ error }

// document is the document of the new network, and what was left out of the one that it
// begins with. The error is a wordError where the user's words make none.
func (w *newNetwork) document(ctx context.Context, d *client.Client, h host, name string) (doc *document.Document, left []string, err error) {
	words := []string{"mode=" + cmp.Or(w.mode, "nat")}
	doc = document.New(name)
	if w.from != "" {
		if doc, left, err = copied(ctx, d, w.from, name); err != nil {
			return nil, nil, err
		}
		words = nil
		if w.mode != "" {
			words = append(words, "mode="+w.mode)
		}
	} else if w.mode != "bridge" {
		w.subnet = cmp.Or(w.subnet, "auto")
	}
	for _, flag := range []struct{ key, value string }{{"subnet", w.subnet}, {"ipv6", w.ipv6}, {"domain", w.domain}} {
		if flag.value != "" {
			words = append(words, flag.key+"="+flag.value)
		}
	}
	if err := doc.Set(words); err != nil {
		return nil, nil, &wordError{fmt.Errorf("--%w", err)}
	}
	switch {
	case w.dev == "" && w.mode == "bridge":
		return nil, nil, &wordError{errors.New("--dev is missing: want the interface or the bridge of this host that leads to the LAN, one of those that \"ip link\" lists")}
	case w.dev == "":
		return doc, left, nil
	}
	_, noBridge := os.Stat(h.path("/sys/class/net/" + filepath.Base(w.dev) + "/bridge"))
	if err := doc.SetDevice(w.dev, noBridge == nil); err != nil {
		return nil, nil, &wordError{fmt.Errorf("--dev: %w", err)}
	}
	return doc, left, nil
}

// define defines the new network if nothing is in its way, and does with it what else
// was asked for.
func (w *newNetwork) define(ctx context.Context, a *app, d *client.Client, doc *document.Document, left []string) error {
	done, err := defineFree(ctx, d, doc)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		a.tell("left out, as it is the other network's: " + strings.Join(left, ", "))
	}
	n := d.Network(done.Network.Name)
	if w.enable {
		if err := n.SetAutostart(ctx, true); err != nil {
			return fmt.Errorf("network %s is defined, but does not start with the host: %w", quote(done.Network.Name), err)
		}
	}
	if w.start {
		if err := n.Start(ctx); err != nil {
			return fmt.Errorf("network %s is defined, but not started: %w", quote(done.Network.Name), err)
		}
	}
	if done.Network, err = n.Get(ctx); err != nil {
		return err
	}
	if a.json {
		return printDefined(a, done)
	}
	xml, err := n.XML(ctx, true)
	if err != nil {
		return err
	}
	made, err := document.Read(xml)
	if err != nil {
		return err
	}
	a.printf("network %s %s\n", quote(done.Network.Name), strings.Join(append([]string{"defined"}, started(w.start)...), " and "))
	for _, line := range append(made.Subnets(), "bridge "+table.OrDash(done.Network.Bridge)) {
		a.printf("  %s\n", table.Printable(line))
	}
	return a.err
}

// started is what was done besides.
func started(yes bool) []string {
	if yes {
		return []string{"started"}
	}
	return nil
}

// defineFree defines a network that there is not yet, if nothing of the host or of
// another network is in its way; the error is a conflict that names it.
func defineFree(ctx context.Context, d *client.Client, doc *document.Document) (api.Defined, error) {
	p, err := d.Plan(ctx, doc.XML())
	if err != nil {
		return api.Defined{}, err
	}
	// A name that is taken is for define to refuse.
	if p.Action == "create" && len(p.Conflicts) > 0 {
		return api.Defined{}, &client.Error{Kind: api.Conflict, Message: strings.Join(p.Conflicts, "\n")}
	}
	return d.DefineNetwork(ctx, doc.XML(), api.DefineOptions{New: true})
}

// definition reads what a network is defined as.
func definition(ctx context.Context, d *client.Client, network string) (*document.Document, error) {
	xml, err := d.Network(network).XML(ctx, true)
	if err != nil {
		return nil, err
	}
	return document.Read(xml)
}

// copied is the document of a network as one of another name.
func copied(ctx context.Context, d *client.Client, network, name string) (doc *document.Document, left []string, err error) {
	if doc, err = definition(ctx, d, network); err != nil {
		return nil, nil, err
	}
	return doc, doc.Copy(name), nil
}

func copyCommand(a *app) *cobra.Command {
	return a.command("copy NET NAME", "Define a network like another one, on a subnet that is free", 2, 2,
		func(ctx context.Context, d *client.Client, args []string) error {
			doc, left, err := copied(ctx, d, args[0], args[1])
			if err != nil {
				return err
			}
			return (&newNetwork{}).define(ctx, a, d, doc, left)
		})
}

func setCommand(a *app) *cobra.Command {
	var opts api.DefineOptions
	var now bool
	var cmd *cobra.Command
	cmd = a.command("set NET KEY=VALUE... [--now]", "Change a network's definition in a few words", 2, len(document.Keys())+1,
		func(ctx context.Context, d *client.Client, args []string) error {
			doc, err := definition(ctx, d, args[0])
			if err != nil {
				return err
			}
			if err := doc.Set(args[1:]); err != nil {
				return newUsageError(cmd, err.Error())
			}
			if now {
				opts.Apply = api.ApplyAll
			}
			done, err := d.DefineNetwork(ctx, doc.XML(), opts)
			if err != nil {
				return err
			}
			return printDefined(a, done)
		})
	cmd.Flags().BoolVar(&now, "now", false, "apply everything to an active network, restarting it where it must")
	cmd.Long = cmd.Short + ". An empty value is the default. The keys:\n"
	for _, k := range document.Keys() {
		cmd.Long += fmt.Sprintf("\n  %-13s %s", k.Name, k.Help)
	}
	return cmd
}

// spanning is how a network shall be one on hosts of a cluster.
type spanning struct {
	cluster, vni, block string
	hosts               []string
}

func spanCommand(a *app) *cobra.Command {
	var w spanning
	var cmd *cobra.Command
	cmd = a.command("span NET [--cluster NAME] [--hosts HOST,...] [--vni NUMBER] [--block NUMBER]", "Have a network, with its guests, be one on the hosts of a cluster", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			doc, err := definition(ctx, d, args[0])
			if err != nil {
				return err
			}
			if w.cluster == "" {
				if w.cluster, err = onlyCluster(ctx, d); err != nil {
					return err
				}
			}
			err = doc.Span(w.cluster, w.hosts, w.vni, w.block)
			if errors.Is(err, document.ErrSpans) {
				return &client.Error{Kind: api.InvalidState, Message: fmt.Sprintf("network %s: %v", quote(args[0]), err)}
			}
			if err != nil {
				return newUsageError(cmd, "--"+err.Error())
			}
			return spread(ctx, a, d, args[0], doc)
		})
	set := cmd.Flags()
	set.StringVar(&w.cluster, "cluster", "", "the `NAME` of the cluster, if this host is in several")
	set.StringSliceVar(&w.hosts, "hosts", nil, "the `HOST`s that it shall be on, this one among them; all without it")
	set.StringVar(&w.vni, "vni", "", "its `NUMBER` in tunnels; one that is free without it")
	set.StringVar(&w.block, "block", "", "how many addresses a host claims at a time, a power of two; as many as fit without it")
	return cmd
}

// onlyCluster is the name of the cluster that this host is in.
func onlyCluster(ctx context.Context, d *client.Client) (string, error) {
	all, err := client.Clusters(ctx, d)
	switch {
	case err != nil:
		return "", err
	case len(all) == 0:
		return "", &client.Error{Kind: api.NotFound, Message: "this host is in no cluster: \"vnetctl cluster init\" makes one"}
	case len(all) > 1:
		return "", errors.New("this host is in several clusters: say which by --cluster")
	}
	return all[0].Name, nil
}

// spread has a network be what doc says of hosts, at once, and says what guests notice.
func spread(ctx context.Context, a *app, d *client.Client, network string, doc *document.Document) error {
	was, err := d.Network(network).Get(ctx)
	if err != nil {
		return err
	}
	done, err := d.DefineNetwork(ctx, doc.XML(), api.DefineOptions{Apply: api.ApplySpan})
	if err != nil {
		return err
	}
	if is := done.Network.MTU; is != 0 && is < cmp.Or(was.MTU, document.MTU) {
		a.tell(fmt.Sprintf("guests are told of MTU %d when they next ask; those that keep %d reach guests of this host and the outside as before, and those of other hosts by smaller packets, as the host tells them to send", is, cmp.Or(was.MTU, document.MTU)))
	}
	return printDefined(a, done)
}

func unspanCommand(a *app) *cobra.Command {
	return a.command("unspan NET", "Take a network apart: each of its hosts has one of its own, with its guests", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			doc, err := definition(ctx, d, args[0])
			if err == nil {
				err = doc.Unspan()
			}
			if errors.Is(err, document.ErrNoSpan) {
				return &client.Error{Kind: api.InvalidState, Message: fmt.Sprintf("network %s: %v", quote(args[0]), err)}
			}
			if err != nil {
				return err
			}
			return spread(ctx, a, d, args[0], doc)
		})
}

func renameCommand(a *app) *cobra.Command {
	return a.command("rename NET NAME", "Give an inactive network another name", 2, 2,
		func(ctx context.Context, d *client.Client, args []string) error {
			return rename(ctx, a, d, args[0], args[1])
		})
}

// rename renames a network, in one step of vnetd's, and tells who knows it by the former name.
func rename(ctx context.Context, a *app, d *client.Client, from, to string) error {
	is, err := d.Network(from).Get(ctx)
	if err != nil {
		return err
	}
	if err := d.Network(from).Rename(ctx, to); err != nil {
		return err
	}
	a.tell(fmt.Sprintf("network %s is now %s; guests that name it must name it so", quote(is.Name), quote(to)))
	peers, err := peersOf(ctx, d, is.Name)
	if len(peers) > 0 {
		a.tell(fmt.Sprintf("peerings of %s are with %s still: delete them and add them anew", strings.Join(peers, ", "), quote(is.Name)))
	}
	return err
}

// peersOf lists the networks whose definitions have a peering with that of the name.
func peersOf(ctx context.Context, d *client.Client, network string) (peers []string, err error) {
	names, err := networkNames(ctx, d)
	for _, name := range names {
		text, err := d.Network(name).Describe(ctx)
		if err != nil {
			return nil, err
		}
		var is api.NetworkStatus
		if err := json.Unmarshal(text, &is); err != nil {
			return nil, fmt.Errorf("reading what network %s is: %w", quote(name), err)
		}
		if slices.ContainsFunc(is.Peers, func(p api.Peer) bool { return p.Network == network }) {
			peers = append(peers, quote(name))
		}
	}
	return peers, err
}

// keys lists what set can set, for the shell.
func keys() []string {
	var all []string
	for _, k := range document.Keys() {
		all = append(all, k.Name+"=\t"+k.Help)
	}
	return all
}
