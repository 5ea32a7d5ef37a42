// Package iptables writes networks' rules into the LIBVIRT_* chains of iptables and
// ip6tables, and the jumps of the built-in chains that lead to them.
//
// It works in three steps. Typed rules become lines, in the very text that
// iptables-save prints. A listing of what the kernel holds is compared with that
// text, which gives the smallest list of increments. One iptables-restore per
// family carries them out: it takes effect table by table, never rule by rule, and
// names only the rules it changes, so whatever others keep in the same tables
// stays. Under nf_tables the generation of the rule set shows whether the last
// listing still holds, and no program is executed for rules like those that stood
// there before: they are written by netlink from templates, learned from the first
// ones that the host's iptables made, and deleted by their handles, all in one
// transaction.
//
// Chains, rules and their order are those of libvirt's network driver with its
// iptables backend, so that scripts, other tools and a libvirtd beside vnetd
// find what they expect. Guards are the one difference.
package iptables
