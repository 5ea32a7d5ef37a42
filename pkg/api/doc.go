// Package api has the documents that vnetd shows the outside: what Describe and
// Plan answer on D-Bus in JSON, what package client returns, and what vnetctl
// prints with --json. They are passive: the daemon fills them in, others read
// them. Lists are empty, never null, unless a field says otherwise; names of
// networks stand for the networks themselves. Readers ignore fields that they
// don't know, since a later vnetd may send more.
package api
