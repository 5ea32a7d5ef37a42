package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// virshVerbs are the verbs of virsh, without their "net-", by the command that
// does the same here.
func virshVerbs() map[string][]string {
	return map[string][]string{
		"cat":      {"dumpxml"},
		"create":   {"create"},
		"define":   {"define"},
		"disable":  {"autostart"},
		"edit":     {"edit"},
		"enable":   {"autostart"},
		"leases":   {"dhcp-leases"},
		"list":     {"list"},
		"monitor":  {"event"},
		"port":     {"port-list", "port-create", "port-delete", "port-dumpxml"},
		"start":    {"start"},
		"status":   {"info"},
		"stop":     {"destroy"},
		"undefine": {"undefine"},
		"update":   {"update"},
	}
}

// suggestForVirsh has root's commands suggested for virsh's.
func suggestForVirsh(root *cobra.Command) {
	verbs := virshVerbs()
	for _, cmd := range root.Commands() {
		for _, verb := range verbs[cmd.Name()] {
			cmd.SuggestFor = append(cmd.SuggestFor, verb, "net-"+verb)
		}
	}
}

// unknownCommand says that cmd has no command of that name, and what was meant
// perhaps.
func unknownCommand(cmd *cobra.Command, typed string) error {
	fault := "unknown command " + quote(typed)
	var meant []string
	for _, name := range cmd.SuggestionsFor(typed) {
		meant = append(meant, quote(cmd.CommandPath()+" "+name))
	}
	if len(meant) > 0 {
		fault += ", perhaps " + strings.Join(meant, " or ")
	}
	return newUsageError(cmd, fault)
}
