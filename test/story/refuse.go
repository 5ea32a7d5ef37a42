package story

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// RefuseLAN gives the LAN host a route to the guest, so that only the firewall
// stands between them, and a web server to the guest.
func (s *Story) RefuseLAN(ctx context.Context, say Say) error {
	if _, err := s.InGuest(ctx, "echo hello >/tmp/index.html; httpd -h /tmp"); err != nil {
		return err
	}
	if err := s.hypervisorReaches(ctx); err != nil {
		return err
	}
	say("the guest's web server answers the hypervisor")
	s.Lab.LAN.IP("route replace " + Subnet + " via " + nstest.Uplink)
	say("lan-host has a route to %s via %s and reaches the gateway %s", Subnet, nstest.Uplink, Gateway)
	if _, err := s.pingFromLAN(ctx, Gateway); err != nil {
		return fmt.Errorf("the LAN host does not reach the gateway: %w", err)
	}
	out, err := s.pingFromLAN(ctx, Address)
	if err == nil {
		return fmt.Errorf("the LAN host pings the guest: %s", out)
	}
	if err := Contains("ping", out, "From "+nstest.Uplink, "Destination Port Unreachable"); err != nil {
		return err
	}
	say("lan-host# ping %s: Destination Port Unreachable, says %s", Address, nstest.Uplink)
	err = s.dialFromLAN(ctx)
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("connecting to the guest from the LAN gave %v, want %w", err, unix.ECONNREFUSED)
	}
	say("lan-host# connect to %s port 80: connection refused", Address)
	return nil
}

// hypervisorReaches fetches the guest's page from the hypervisor itself.
func (s *Story) hypervisorReaches(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+Address+"/index.html", http.NoBody)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("the hypervisor does not reach the guest: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the guest's web server says %s", response.Status)
	}
	return nil
}

// pingFromLAN returns what ping prints on the LAN host, and an error without an answer.
func (s *Story) pingFromLAN(ctx context.Context, address string) (string, error) {
	out, err := s.Lab.LAN.Command(ctx, "ping", "-c1", "-W2", address).CombinedOutput()
	return string(out), err
}

// dialFromLAN connects to the guest's web server from the LAN host.
func (s *Story) dialFromLAN(ctx context.Context) error {
	return s.Lab.LAN.Do(func() error {
		dialer := net.Dialer{Timeout: 5 * time.Second}
		conn, err := dialer.DialContext(ctx, "tcp4", Address+":80")
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
