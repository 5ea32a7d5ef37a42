package dbusapi

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// callLimit is how long one call may take before its context ends; one that
// checks rights itself sees to that, too.
const callLimit = 2 * time.Minute

// Errors of the bus itself, as other services give them.
const (
	errUnknownObject    = "org.freedesktop.DBus.Error.UnknownObject"
	errUnknownInterface = "org.freedesktop.DBus.Error.UnknownInterface"
	errUnknownMethod    = "org.freedesktop.DBus.Error.UnknownMethod"
	errUnknownProperty  = "org.freedesktop.DBus.Error.UnknownProperty"
	errReadOnly         = "org.freedesktop.DBus.Error.PropertyReadOnly"
	errInvalidArgs      = "org.freedesktop.DBus.Error.InvalidArgs"
)

// LookupObject implements dbus.Handler. Every call reaches answer: the library
// only carries messages.
func (s *Server) LookupObject(dbus.ObjectPath) (dbus.ServerObject, bool) { return everything{s}, true }

// everything is an object that has every interface, and those every method:
// one that hands the message to the server.
type everything struct{ s *Server }

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
	msg := args[0].(*dbus.Message)
	wanted := msg.Flags&dbus.FlagNoReplyExpected == 0
	msg.Flags |= dbus.FlagNoReplyExpected
	e.s.answer(msg, wanted)
	return nil, nil
}

func (everything) NumArguments() int     { return 1 }
func (everything) NumReturns() int       { return 0 }
func (everything) ArgumentValue(int) any { return nil }
func (everything) ReturnValue(int) any   { return nil }

// answer runs the method that msg calls and, when a reply is wanted, sends one:
// its results or its error.
func (s *Server) answer(msg *dbus.Message, wanted bool) {
	sender, _ := msg.Headers[dbus.FieldSender].Value().(string)
	c := &call{sender: sender, body: msg.Body, interactive: msg.Flags&dbus.FlagAllowInteractiveAuthorization != 0}
	results, err := s.invoke(c, msg)
	defer closeAll(c.files)
	if !wanted {
		return
	}
	reply := &dbus.Message{Type: dbus.TypeMethodReply, Body: results}
	if err != nil {
		name, text := errorName(err)
		reply.Type, reply.Body = dbus.TypeError, []any{text}
		reply.Headers = map[dbus.HeaderField]dbus.Variant{dbus.FieldErrorName: dbus.MakeVariant(name)}
	}
	s.send(reply, c, msg.Serial())
}

// send answers the call that came as the message with that serial.
func (s *Server) send(reply *dbus.Message, c *call, serial uint32) {
	if reply.Headers == nil {
		reply.Headers = make(map[dbus.HeaderField]dbus.Variant)
	}
	reply.Headers[dbus.FieldDestination] = dbus.MakeVariant(c.sender)
	reply.Headers[dbus.FieldReplySerial] = dbus.MakeVariant(serial)
	if len(reply.Body) > 0 {
		reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(reply.Body...))
	}
	if len(c.files) == 0 {
		s.conn.Send(reply, nil)
	} else if err := s.conn.SendFiles(reply, c.files); err != nil {
		s.cfg.Logger.Warn("sending files to a client", "client", c.sender, "error", err)
	}
}

// invoke finds the method, checks arguments and rights, and runs it. A panic
// ends the call, not the daemon.
func (s *Server) invoke(c *call, msg *dbus.Message) (results []any, err error) {
	path, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	ifaceName, _ := msg.Headers[dbus.FieldInterface].Value().(string)
	member, _ := msg.Headers[dbus.FieldMember].Value().(string)
	defer func() {
		if r := recover(); r != nil {
			s.cfg.Logger.Error("a call panicked", "path", string(path), "member", member, "panic", r, "stack", string(debug.Stack()))
			results, err = nil, api.Errorf(api.Internal, "%s failed in an unforeseen way: see vnetd's log", member)
		}
	}()
	ctx := s.conn.Context()
	m, err := s.method(path, ifaceName, member)
	if err != nil {
		return nil, err
	}
	if m.needs != selfCheck {
		if err := s.authorize(ctx, c, m.needs, ""); err != nil {
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
func (s *Server) method(path dbus.ObjectPath, ifaceName, member string) (*method, error) {
	o := tree{s}.object(path)
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

// busError is an error with a name of its own.
type busError struct{ name, text string }

func (e busError) Error() string { return e.text }

// errorName is the name and the text under which err goes over the bus.
func errorName(err error) (name, text string) {
	if b, ok := err.(busError); ok {
		return b.name, b.text
	}
	return busName + ".Error." + string(network.KindOf(err)), err.Error()
}
