// Package suggest tells which command was meant by one that there is not.
package suggest

import (
	"strings"

	"github.com/spf13/cobra"
)

// meanings are the commands that do what other programs' verbs do: virsh's,
// without their "net-", systemctl's, ip's and nmcli's.
func meanings() map[string][]string {
	return map[string][]string{
		"add":              {"new", "define"},
		"attach-interface": {"port create", "run"},
		"autostart":        {"enable", "disable"},
		"check":            {"plan", "doctor"},
		"clone":            {"copy"},
		"conditions":       {"doctor"},
		"cp":               {"copy"},
		"delete":           {"undefine", "port delete"},
		"desc":             {"edit"},
		"destroy":          {"stop"},
		"detach-interface": {"port delete"},
		"dhcp-leases":      {"leases"},
		"diff":             {"plan"},
		"dump":             {"capture"},
		"domif-getlink":    {"port show"},
		"domifaddr":        {"leases", "port list"},
		"domiflist":        {"port list"},
		"domifstat":        {"top", "port show"},
		"down":             {"stop"},
		"dumpxml":          {"cat"},
		"event":            {"monitor"},
		"events":           {"monitor"},
		"htop":             {"top"},
		"iftop":            {"top"},
		"info":             {"status"},
		"inspect":          {"status", "cat"},
		"lease":            {"leases"},
		"log":              {"monitor", "log-level"},
		"logs":             {"monitor", "log-level"},
		"ls":               {"list"},
		"metadata":         {"cat", "edit"},
		"modify":           {"set", "edit"},
		"mv":               {"rename"},
		"name":             {"status"},
		"networks":         {"list"},
		"port-create":      {"port create"},
		"port-delete":      {"port delete"},
		"port-dumpxml":     {"port show"},
		"port-list":        {"port list"},
		"ports":            {"port list"},
		"ps":               {"port list"},
		"remove":           {"undefine", "port delete"},
		"rm":               {"undefine", "port delete"},
		"sniff":            {"capture"},
		"tcpdump":          {"capture"},
		"renum":            {"renumber"},
		"resubnet":         {"renumber"},
		"show":             {"status", "cat"},
		"stats":            {"top"},
		"up":               {"start"},
		"uuid":             {"status"},
		"watch":            {"monitor"},
	}
}

// Commands returns the commands below cmd that were meant by typed: what does
// the same elsewhere, or what is spelt most like it.
func Commands(cmd *cobra.Command, typed string) []string {
	verb := strings.TrimPrefix(strings.ToLower(typed), "net-")
	var same []string
	for _, path := range append(meanings()[verb], verb) {
		path = strings.TrimPrefix(path, cmd.Name()+" ")
		if found, rest, err := cmd.Find(strings.Fields(path)); err == nil && len(rest) == 0 && found != cmd {
			same = append(same, path)
		}
	}
	if len(same) > 0 {
		return same
	}
	return nearest(cmd, verb)
}

// nearest returns the commands below cmd that are fewest letters away from
// typed, two at most, or that begin with it.
func nearest(cmd *cobra.Command, typed string) []string {
	for cmd.SuggestionsMinimumDistance = 1; cmd.SuggestionsMinimumDistance <= 2; cmd.SuggestionsMinimumDistance++ {
		if names := cmd.SuggestionsFor(typed); len(names) > 0 {
			return names
		}
	}
	return nil
}
