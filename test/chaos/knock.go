package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/flows"
)

// firstForward is the port of the host, and of the first guest, at which it may be called from
// the LAN.
const firstForward = 20000

// rememberConnections has the kernel keep connections of UDP for an hour: what vnetd forgets
// to end is still there when it is looked for.
func rememberConnections() error {
	const udp = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout"
	return errors.Join(os.WriteFile(udp, []byte("3600"), 0), os.WriteFile(udp+"_stream", []byte("3600"), 0))
}

// forwards reports whether a port of the host leads to the guest: to one in four.
func (g *guest) forwards() bool { return g.n/bases%4 == 1 }

func (g *guest) ownPort() int { return firstForward + g.n }

// knock sends the guest something from the LAN, each time as somebody else, and waits for its
// answer.
func (g *guest) knock() error {
	var conn net.Conn
	err := g.w.lab.LAN.Do(func() (err error) {
		conn, err = net.Dial("udp4", net.JoinHostPort(nstest.Uplink, strconv.Itoa(g.ownPort())))
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(answerLimit))
	if _, err := conn.Write([]byte(g.name)); err != nil {
		return err
	}
	if _, err := conn.Read(make([]byte, 64)); err != nil {
		return errNoAnswer
	}
	return nil
}

// takeKnock answers who knocks.
func (g *guest) takeKnock(ip, udp []byte) {
	if int(binary.BigEndian.Uint16(udp[2:])) != g.ownPort() {
		return
	}
	from, to := netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
	_ = g.send(to, from, binary.BigEndian.Uint16(udp[2:]), binary.BigEndian.Uint16(udp), udp[8:])
}

// connectionsHold holds that each connection that a port of the host led to a guest has a
// forward that leads there still.
func (w *world) connectionsHold(ctx context.Context) error {
	var forwards []api.Forward
	err := w.watch.with(ctx, func(c *client.Client) (err error) {
		forwards, err = c.Forwards(ctx)
		return err
	})
	if err != nil {
		return err
	}
	return eachLed(func(f *firewall.Flow) error {
		leads := slices.ContainsFunc(forwards, func(is api.Forward) bool {
			return is.Ports == strconv.Itoa(int(f.Port)) && slices.Contains(is.Targets, f.Destination)
		})
		if leads {
			return nil
		}
		return fmt.Errorf("the kernel keeps a connection to port %d of %s, where no forward leads any more", f.Port, f.Destination)
	})
}

// eachLed joins what hold returns for the connections that ports of the host led elsewhere.
func eachLed(hold func(*firewall.Flow) error) error {
	var errs []error
	err := flows.Table{}.End(func(f *firewall.Flow) bool {
		if f.Led {
			errs = append(errs, hold(f))
		}
		return false
	})
	return errors.Join(append(errs, err)...)
}
