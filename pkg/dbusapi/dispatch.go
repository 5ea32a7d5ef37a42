package dbusapi

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/quota"
	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// dispatcher has the calls that come over a connection answered.
type dispatcher struct {
	clients *clients

	ready chan struct{} // closed when the fields below are set
	conn  *sysbus.Conn
	tree  tree
}

// arrival is the body of a call that has arrived.
type arrival struct {
	body    []any
	size    int             // in bytes
	left    context.Context // ends when the caller leaves the bus
	user    *quota.User     // on whose account it goes
	refused error           // as one too many; the body is gone
	done    func()          // takes it off the account
}

// charge puts the call on somebody's account.
func (a *arrival) charge(u *quota.User) error {
	done, err := u.Admit(a.size)
	if err == nil {
		a.done()
		a.user, a.done = u, done
	}
	return err
}

// arrive counts a call as one of its sender's, of whom may be no more known than its
// name. It runs in the goroutine that reads from the bus.
func (d *dispatcher) arrive(msg *dbus.Message, size int) {
	sender, _ := msg.Headers[dbus.FieldSender].Value().(string)
	client, user := d.clients.enter(sender)
	a := &arrival{body: msg.Body, size: size, left: client.left, done: func() {}}
	if a.refused = a.charge(user); a.refused != nil {
		a.body = nil
	}
	msg.Body = []any{a}
}

// LookupObject implements dbus.Handler. Every call reaches answer: the library
// only carries messages.
func (d *dispatcher) LookupObject(dbus.ObjectPath) (dbus.ServerObject, bool) {
	return everything{d}, true
}

// everything is an object that has every interface, and those every method:
// one that hands the message to the server.
type everything struct{ d *dispatcher }

func (e everything) LookupInterface(string) (dbus.Interface, bool) { return e, true }
func (e everything) LookupMethod(string) (dbus.Method, bool)       { return e, true }

// DecodeArguments implements dbus.ArgumentDecoder: the message itself is what
// Call gets.
func (everything) DecodeArguments(_ *dbus.Conn, _ string, msg *dbus.Message, _ []any) ([]any, error) {
	return []any{msg}, nil
}

// Call answers the message. The library is told that no reply is expected of
// it: files go with a reply of ours, and are closed once it is written.
func (e everything) Call(args ...any) ([]any, error) {
	<-e.d.ready
	msg := args[0].(*dbus.Message)
	wanted := msg.Flags&dbus.FlagNoReplyExpected == 0
	msg.Flags |= dbus.FlagNoReplyExpected
	e.d.answer(msg, wanted)
	return nil, nil
}

func (everything) NumArguments() int     { return 1 }
func (everything) NumReturns() int       { return 0 }
func (everything) ArgumentValue(int) any { return nil }
func (everything) ReturnValue(int) any   { return nil }

// answer runs the method that msg calls and, when a reply is wanted, sends one:
// its results or its error.
func (d *dispatcher) answer(msg *dbus.Message, wanted bool) {
	sender, _ := msg.Headers[dbus.FieldSender].Value().(string)
	a := msg.Body[0].(*arrival)
	defer func() { a.done() }()
	c := &call{sender: sender, body: a.body, left: a.left, interactive: msg.Flags&dbus.FlagAllowInteractiveAuthorization != 0}
	defer c.close()
	results, err := d.take(c, msg, a)
	if !wanted {
		return
	}
	reply := &dbus.Message{Type: dbus.TypeMethodReply, Body: results}
	if err != nil {
		name, text := errorName(err)
		reply.Type, reply.Body = dbus.TypeError, []any{text}
		reply.Headers = map[dbus.HeaderField]dbus.Variant{dbus.FieldErrorName: dbus.MakeVariant(name)}
	}
	d.send(reply, c, msg.Serial())
}

// send answers the call that came as the message with that serial.
func (d *dispatcher) send(reply *dbus.Message, c *call, serial uint32) {
	if reply.Headers == nil {
		reply.Headers = make(map[dbus.HeaderField]dbus.Variant)
	}
	reply.Headers[dbus.FieldDestination] = dbus.MakeVariant(c.sender)
	reply.Headers[dbus.FieldReplySerial] = dbus.MakeVariant(serial)
	if len(reply.Body) > 0 {
		reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(reply.Body...))
	}
	if len(c.files) == 0 {
		d.conn.Send(reply, nil)
	} else if err := d.conn.SendFiles(reply, c.files); err != nil {
		d.tree.cfg.Logger.Warn("sending files to a client", "client", c.sender, "error", err)
	}
}

// bigCall is how many bytes of arguments make a call work, whatever it is: a document.
const bigCall = 64 << 10

// take has a call done when it is its user's turn. A panic ends the call, not the
// daemon.
func (d *dispatcher) take(c *call, msg *dbus.Message, a *arrival) (results []any, err error) {
	path, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	ifaceName, _ := msg.Headers[dbus.FieldInterface].Value().(string)
	member, _ := msg.Headers[dbus.FieldMember].Value().(string)
	defer func() {
		if r := recover(); r != nil {
			d.tree.cfg.Logger.Error("a call panicked", "path", string(path), "member", member, "panic", r, "stack", string(debug.Stack()))
			results, err = nil, api.Errorf(api.Internal, "%s failed in an unforeseen way: see vnetd's log", member)
		}
	}()
	ctx := d.conn.Context()
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.left, cancel)()
	if err := d.admit(waiting, c, a); err != nil {
		return nil, err
	}
	m, err := d.method(path, ifaceName, member)
	if err != nil {
		return nil, err
	}
	if m.needs != selfCheck {
		if err := d.tree.rights.authorize(ctx, c, m.needs, ""); err != nil {
			return nil, err
		}
	}
	if m.needs == read || a.size > bigCall {
		done, err := a.user.Work(waiting)
		if err != nil {
			return nil, err
		}
		defer done()
	}
	return d.invoke(ctx, c, m)
}

// admit puts a call on its user's account and waits until that may make one more, or
// the caller has left.
func (d *dispatcher) admit(ctx context.Context, c *call, a *arrival) error {
	err := a.refused
	if err == nil {
		if err := d.tree.rights.identify(ctx, c); err != nil {
			return err
		}
		if u := d.clients.users.Of(c.who.uid); u != a.user {
			err = a.charge(u)
		}
	}
	if err != nil {
		return api.Errorf(api.LimitExceeded, "too many calls at a time: %w", err)
	}
	return a.user.Pace(ctx)
}

// invoke checks the arguments of a call that the sender may make, and runs its method.
func (d *dispatcher) invoke(ctx context.Context, c *call, m *method) ([]any, error) {
	if got, want := dbus.SignatureOf(c.body...).String(), signature(m.in); got != want {
		return nil, busError{errInvalidArgs, fmt.Sprintf("%s takes arguments of type %q, not %q", m.name, want, got)}
	}
	if m.needs != selfCheck {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callLimit)
		defer cancel()
	}
	return m.call(ctx, c)
}

// method finds the method that a message names.
func (d *dispatcher) method(path dbus.ObjectPath, ifaceName, member string) (*method, error) {
	o := d.tree.object(path)
	if o == nil {
		return nil, busError{errUnknownObject, fmt.Sprintf("there is no object %s", path)}
	}
	if m, ok := o.find(ifaceName, member); ok {
		return m, nil
	}
	if ifaceName != "" && !o.has(ifaceName) {
		return nil, busError{errUnknownInterface, fmt.Sprintf("object %s has no interface %q", path, ifaceName)}
	}
	return nil, busError{errUnknownMethod, fmt.Sprintf("object %s has no method %q", path, member)}
}

// errorName is the name and the text under which err goes over the bus.
func errorName(err error) (name, text string) {
	if b, ok := err.(busError); ok {
		return b.name, b.text
	}
	return busName + ".Error." + string(network.KindOf(err)), err.Error()
}
