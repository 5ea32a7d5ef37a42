package api

import (
	"net/netip"
	"time"
)

// BGP is how this host announces networks to routers.
type BGP struct {
	AS         uint32         `json:"as"`
	RouterID   netip.Addr     `json:"router_id"` // empty: not known yet
	Neighbours []BGPNeighbour `json:"neighbours"`
	Prefixes   []netip.Prefix `json:"prefixes"` // that are announced, in order
}

// BGPNeighbour is a router that is told.
type BGPNeighbour struct {
	Address netip.Addr `json:"address"`
	AS      uint32     `json:"as"`
	Up      bool       `json:"up"`
	Since   time.Time  `json:"since"`  // since when that is so
	Reason  string     `json:"reason"` // why it is not up; empty while it is
	Flaps   uint64     `json:"flaps"`  // how often it went down since vnetd started
}
