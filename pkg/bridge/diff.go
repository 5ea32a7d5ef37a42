package bridge

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
)

// Aspect is what of a bridge or of a port is compared.
type Aspect string

// The aspects of a bridge, in the order in which they are mended, and those of a port.
const (
	AspectBridge        Aspect = "bridge" // the device itself
	AspectName          Aspect = "name"
	AspectMAC           Aspect = "mac"
	AspectMTU           Aspect = "mtu" // of ports too
	AspectVLANFiltering Aspect = "vlan-filtering"
	AspectMaxLearned    Aspect = "fdb-max-learned"
	AspectSnooping      Aspect = "multicast-snooping"
	AspectQuerier       Aspect = "multicast-querier"
	AspectAlias         Aspect = "alias"
	AspectSTP           Aspect = "stp" // and the forward delay
	AspectSysctl        Aspect = "sysctl"
	AspectUp            Aspect = "up" // of ports too
	AspectAddress       Aspect = "address"
	AspectRoute         Aspect = "route"

	AspectParent   Aspect = "parent" // of a macvlan
	AspectMaster   Aspect = "master"
	AspectIsolated Aspect = "isolated"
	AspectLearning Aspect = "learning"
	AspectFlood    Aspect = "flood"
	AspectVLAN     Aspect = "vlan"
	AspectState    Aspect = "state" // of a port: disabled, without STP
	AspectFDB      Aspect = "fdb"

	AspectTunnel Aspect = "tunnel" // to other hosts; see package vxlan
	AspectPeer   Aspect = "peer"   // of a tunnel

	AspectHostLink Aspect = "host-link" // by which this host is in a network; see package hostlink

	AspectBandwidth Aspect = "bandwidth" // of bridges too; see package tc
)

// Difference is one thing that is not as it shall be.
type Difference struct {
	Link   string // the bridge or port, by the name that it shall have
	Aspect Aspect
	// Has and Want are what it is and what it shall be, as ip(8), bridge(8) or sysctl(8)
	// would say it; empty for what is not there, or shall not be.
	Has, Want string
}

func (d Difference) String() string {
	switch {
	case d.Has == "":
		return fmt.Sprintf("%s: %s %s is not there", d.Link, d.Aspect, d.Want)
	case d.Want == "":
		return fmt.Sprintf("%s: %s %s should not be there", d.Link, d.Aspect, d.Has)
	}
	return fmt.Sprintf("%s: %s is %s, should be %s", d.Link, d.Aspect, d.Has, d.Want)
}

// Amend is asked of each difference before it is mended, in order; false leaves it. A
// nil one mends all.
type Amend func(Difference) bool

// change mends a difference: by requests, which go out together with those of others,
// or by a function.
type change struct {
	Difference
	requests []*nl.NetlinkRequest
	do       func() error
}

// differs is a change of an aspect of a link by requests.
func differs(link string, what Aspect, has, want any, requests ...*nl.NetlinkRequest) change {
	return change{Difference: Difference{link, what, fmt.Sprint(has), fmt.Sprint(want)}, requests: requests}
}

// pass leaves those changes that amend allows.
func (amend Amend) pass(changes []change) []change {
	if amend == nil {
		return changes
	}
	return slices.DeleteFunc(changes, func(c change) bool { return !amend(c.Difference) })
}

// requests are those of all changes.
func requests(changes []change) (all []*nl.NetlinkRequest) {
	for _, c := range changes {
		all = append(all, c.requests...)
	}
	return all
}

// carryOut makes the changes that amend allows, one by one.
func (c *conn) carryOut(changes []change, amend Amend) error {
	for _, one := range amend.pass(changes) {
		err := c.doAll(one.requests)
		if err == nil && one.do != nil {
			err = one.do()
		}
		if err != nil {
			return fmt.Errorf("mending %v: %w", one.Difference, err)
		}
	}
	return nil
}

// doAll is do, where there is something to do.
func (c *conn) doAll(reqs []*nl.NetlinkRequest) error {
	if len(reqs) == 0 {
		return nil
	}
	return c.do(reqs...)
}

// onOff is a switch as bridge(8) says it.
func onOff(v bool) string {
	if v {
		return "on"
	}
	return "off"
}
