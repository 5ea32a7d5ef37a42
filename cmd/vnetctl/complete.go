package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// completeLimit is how long a shell waits for names at most.
const completeLimit = 2 * time.Second

// completeNames has the shell complete arguments by what there is: the words of
// Use say of what kind each is. A vnetd that does not answer has no names.
func completeNames(a *app, cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		completeNames(a, sub)
	}
	words := strings.Fields(strings.Map(dropBrackets, cmd.Use))
	if len(words) < 2 {
		return
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		word := ""
		if at := len(args) + 1; at < len(words) {
			word = words[at]
		}
		return names(cmd.Context(), a, word)
	}
}

// dropBrackets takes the marks of what is optional out of a usage.
func dropBrackets(r rune) rune {
	if r == '[' || r == ']' {
		return -1
	}
	return r
}

// names lists what can stand where the usage has word.
func names(ctx context.Context, a *app, word string) ([]string, cobra.ShellCompDirective) {
	switch word {
	case "FILE", "XML|FILE":
		return nil, cobra.ShellCompDirectiveDefault
	case "NET", "ID":
	case "COMMAND":
		return []string{"add", "add-first", "add-last", "delete", "modify"}, cobra.ShellCompDirectiveNoFileComp
	case "SECTION":
		return []string{
			"ip-dhcp-host", "ip-dhcp-range", "dns-host", "dns-txt", "dns-srv", "portgroup", "forward-interface", "vnetd-record",
		}, cobra.ShellCompDirectiveNoFileComp
	default:
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	d, err := a.dial(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer func() { _ = d.Close() }()
	var found []string
	if word == "NET" {
		networks, _ := d.Networks(ctx)
		for _, n := range networks {
			found = append(found, n.Name+"\t"+string(n.State))
		}
	} else {
		ports, _ := d.Ports(ctx)
		for _, p := range ports {
			found = append(found, p.IfName+"\t"+strings.TrimSpace(p.Network+" "+p.Name))
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}
