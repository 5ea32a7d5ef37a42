package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// netsEach is how many networks an admin has, and portsEach how many ports on one of them.
const (
	netsEach  = 3
	portsEach = 4
)

// admin is a client with networks of its own. It alone changes them.
type admin struct {
	w    *world
	lots *rand.Rand
	protocol
	ports *overBus // over which it asks for ports
	nets  []*netBook
	n     int // its number
}

func newAdmin(w *world, n int, p protocol) *admin {
	a := &admin{w: w, n: n, lots: lotsOf(w.seed, fmt.Sprintf("admin %d", n)), protocol: p, ports: new(overBus)}
	for i := range netsEach {
		a.nets = append(a.nets, w.books.network(fmt.Sprintf("c%dn%d", n, i)))
	}
	return a
}

// document is that of the i-th network, which has another range of addresses now and then.
func (a *admin) document(i int) string {
	mode := []string{"<forward mode='nat'/>", "<forward mode='route'/>", ""}[i%3]
	ipv6 := ""
	if a.n%2 == 0 {
		ipv6 = fmt.Sprintf("<ip family='ipv6' address='fd00:%d:%d::1' prefix='64'><dhcp><range start='fd00:%[1]d:%[2]d::100' end='fd00:%[1]d:%[2]d::1ff'/></dhcp></ip>", a.n, i)
	}
	return fmt.Sprintf(`<network><name>%s</name>%s<bridge name='%s' stp='off' delay='0'/>
<ip address='10.%d.%d.1' netmask='255.255.255.0'><dhcp><range start='10.%[4]d.%[5]d.%[6]d' end='10.%[4]d.%[5]d.254'/></dhcp></ip>%[7]s</network>`,
		a.nets[i].name, mode, a.nets[i].bridge, 100+a.n, i, 10+a.lots.IntN(100), ipv6)
}

// act does one thing at random.
func (a *admin) act(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, actLimit)
	defer cancel()
	i := a.lots.IntN(len(a.nets))
	switch lot := a.lots.IntN(100); {
	case lot < 20:
		a.doDefine(ctx, i)
	case lot < 45:
		a.doStart(ctx, a.nets[i])
	case lot < 60:
		a.doStop(ctx, a.nets[i])
	case lot < 66:
		a.doUndefine(ctx, a.nets[i])
	case lot < 74:
		a.doCreate(ctx, i)
	case lot < 88:
		a.doPlug(ctx, a.nets[i])
	case lot < 95:
		a.doUnplug(ctx, a.nets[i])
	default:
		a.w.books.note("list", a.list(ctx))
	}
}

// contradicts notes that vnetd says something of a network that was acknowledged otherwise.
func (a *admin) contradicts(act string, n *netBook, err error) {
	wrong := errors.Is(err, api.NotFound) && (n.defined == yes || n.active == yes) ||
		errors.Is(err, api.InvalidState) && (act == "start" && n.active == no || act == "stop" && n.active == yes)
	if wrong {
		a.w.books.fault("%s of network %s, defined %v, active %v: %w", act, n.name, n.defined, n.active, err)
	}
}

func (a *admin) doDefine(ctx context.Context, i int) {
	n := a.nets[i]
	err := a.define(ctx, a.document(i))
	a.w.books.note("define", err)
	n.defined = n.defined.after(yes, err)
}

func (a *admin) doStart(ctx context.Context, n *netBook) {
	if n.defined == no {
		return
	}
	err := a.start(ctx, n.name)
	a.w.books.note("start", err)
	a.contradicts("start", n, err)
	n.active = n.active.after(yes, err)
}

func (a *admin) doCreate(ctx context.Context, i int) {
	n := a.nets[i]
	if n.defined != no || n.active != no {
		return
	}
	err := a.create(ctx, a.document(i))
	a.w.books.note("create", err)
	n.active = n.active.after(yes, err)
}

func (a *admin) doStop(ctx context.Context, n *netBook) {
	err := a.stop(ctx, n.name)
	a.w.books.note("stop", err)
	a.contradicts("stop", n, err)
	if n.active == no {
		return
	}
	n.active = n.active.after(no, err)
	if n.active != yes && n.defined != yes {
		a.w.books.endPorts(n.name, max(n.active, n.defined))
	}
}

func (a *admin) doUndefine(ctx context.Context, n *netBook) {
	err := a.undefine(ctx, n.name)
	a.w.books.note("undefine", err)
	a.contradicts("undefine", n, err)
	if n.defined == no {
		return
	}
	n.defined = n.defined.after(no, err)
	if n.active != yes && n.defined != yes {
		a.w.books.endPorts(n.name, maybe)
	}
}

// doPlug has a port that stays until it is released.
func (a *admin) doPlug(ctx context.Context, n *netBook) {
	if n.active != yes || len(a.w.books.portsOn(n.name)) >= portsEach {
		return
	}
	err := a.ports.with(ctx, func(c *client.Client) error {
		p, err := c.RequestPort(ctx, n.name, client.PortOptions{Lifetime: client.LifetimePersistent})
		if err != nil {
			return err
		}
		a.w.books.port(portBook{uuid: p.Info.UUID, network: n.name, ifname: p.Info.IfName, state: yes})
		return p.Close()
	})
	a.w.books.note("plug", err)
	if err != nil && !definite(err) {
		n.stray++
	}
	a.contradicts("plug", n, err)
}

func (a *admin) doUnplug(ctx context.Context, n *netBook) {
	all := a.w.books.portsOn(n.name)
	if len(all) == 0 {
		return
	}
	uuid := all[a.lots.IntN(len(all))]
	err := a.ports.with(ctx, func(c *client.Client) error { return c.Port(uuid).Release(ctx) })
	a.w.books.note("unplug", err)
	if errors.Is(err, api.NotFound) {
		a.w.books.fault("port %s on %s is not known: %w", uuid, n.name, err)
	}
	a.w.books.endPort(uuid, err)
}

// live acts until ctx ends. What is under way then is finished.
func (a *admin) live(ctx context.Context) {
	for ctx.Err() == nil {
		a.act(context.WithoutCancel(ctx))
		pause(ctx, a.lots, 400*time.Millisecond)
	}
}

func (a *admin) end() {
	a.close()
	a.ports.close()
}

// pause waits for most at most.
func pause(ctx context.Context, lots *rand.Rand, most time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(lots.Int64N(int64(most)))):
	}
}

// changer is a client that changes the networks of the guests while they are at work: a name
// of each, whose number grows.
type changer struct {
	w     *world
	lots  *rand.Rand
	bus   *overBus
	count int
}

func (c *changer) live(ctx context.Context) {
	for ctx.Err() == nil {
		c.act(context.WithoutCancel(ctx))
		pause(ctx, c.lots, time.Second)
	}
}

func (c *changer) act(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, actLimit)
	defer cancel()
	k := c.lots.IntN(bases)
	c.count++
	n := c.w.books.network(baseName(k))
	word := fmt.Sprintf("edition%d", c.count)
	err := c.bus.define(ctx, baseXML(k, word))
	c.w.books.note("change", err)
	switch {
	case err == nil:
		n.words = []string{word}
	case !definite(err):
		n.words = append(n.words, word)
	}
}
