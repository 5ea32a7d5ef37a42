package dbusapi

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// dispatcher has the calls that come over a connection answered.
type dispatcher struct {
	ready chan struct{} // closed when the fields below are set
	conn  *sysbus.Conn
	tree  tree
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
	c := &call{sender: sender, body: msg.Body, interactive: msg.Flags&dbus.FlagAllowInteractiveAuthorization != 0}
	results, err := d.invoke(c, msg)
	defer c.close()
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

// invoke finds the method, checks arguments and rights, and runs it. A panic
// ends the call, not the daemon.
func (d *dispatcher) invoke(c *call, msg *dbus.Message) (results []any, err error) {
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
	m, err := d.method(path, ifaceName, member)
	if err != nil {
		return nil, err
	}
	if m.needs != selfCheck {
		if err := d.tree.rights.authorize(ctx, c, m.needs, ""); err != nil {
			return nil, err
		}
	}
	if got, want := dbus.SignatureOf(c.body...).String(), signature(m.in); got != want {
		return nil, busError{errInvalidArgs, fmt.Sprintf("%s takes arguments of type %q, not %q", member, want, got)}
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
