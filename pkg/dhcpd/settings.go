package dhcpd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Settings are what the servers of both families are told alike.
type Settings struct {
	Interface    string
	MAC          net.HardwareAddr
	Prefix       netip.Prefix
	LeaseTime    time.Duration
	Ranges       []Range
	Reservations []Reservation
	Store        LeaseStore
}

// Validate returns every fault of s as settings of DHCPv6, or else of DHCPv4, joined,
// or nil.
func (s *Settings) Validate(v6 bool) error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Interface == "" {
		fault("interface: empty")
	}
	if len(s.MAC) != HWAddrLen {
		fault("mac: %d bytes long, want %d", len(s.MAC), HWAddrLen)
	}
	if s.Store == nil {
		fault("store: nil")
	}
	if s.LeaseTime < 0 {
		fault("lease time: negative")
	}
	for i := range s.Ranges {
		if err := s.Ranges[i].validate(s.Prefix); err != nil {
			fault("range %d: %w", i, err)
		}
	}
	for i := range s.Reservations {
		if err := s.Reservations[i].Validate(v6); err != nil {
			fault("reservation %d: %w", i, err)
		}
	}
	return errors.Join(errs...)
}
