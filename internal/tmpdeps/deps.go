// Package tmpdeps keeps go.mod complete until every importer exists.
package tmpdeps

import (
	_ "github.com/BurntSushi/toml"
	_ "github.com/coreos/go-iptables/iptables"
	_ "github.com/godbus/dbus/v5"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/insomniacslk/dhcp/dhcpv4"
	_ "github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	_ "github.com/mdlayher/packet"
	_ "github.com/mdlayher/sdnotify"
	_ "github.com/miekg/dns"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/spf13/cobra"
	_ "github.com/vishvananda/netlink"
	_ "go.etcd.io/bbolt"
	_ "golang.org/x/net/ipv4"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "libvirt.org/go/libvirtxml"
)
