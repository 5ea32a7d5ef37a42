// Package e2espan has three hosts share a network by etcd, which runs on each of them, while
// what they need fails: servers of etcd, the wire, vnetd itself. Run by make e2e-span.
package e2espan
