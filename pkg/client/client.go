package client

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/api"
)

// The names of the API on the bus.
const (
	busName  = "org.vnetd1"
	rootPath = dbus.ObjectPath("/org/vnetd1")

	managerInterface    = "org.vnetd1.Manager"
	networkInterface    = "org.vnetd1.Network"
	portInterface       = "org.vnetd1.Port"
	forwardInterface    = "org.vnetd1.Forward"
	propertiesInterface = "org.freedesktop.DBus.Properties"

	getManagedObjects = "org.freedesktop.DBus.ObjectManager.GetManagedObjects"
)

// Client is one connection to vnetd over the system bus. All methods may be
// called at the same time from several goroutines. A Client does not reconnect:
// after an api.NotRunning caused by a lost bus, dial again. A restart of vnetd
// alone is not a lost connection.
type Client struct {
	conn   *sysbus.Conn
	cancel context.CancelFunc
	flags  dbus.Flags

	// abandoned counts requests whose caller went away before the answer.
	abandoned sync.WaitGroup
}

// Option changes how a Client calls vnetd.
type Option func(*Client)

// Interactive lets the host ask the user for a password when a call needs it.
// A call may then take as long as the user does. Without it such a call fails
// with api.Denied at once.
func Interactive() Option {
	return func(c *Client) { c.flags |= dbus.FlagAllowInteractiveAuthorization }
}

// Dial connects to the system bus, or to the bus that the environment variable
// DBUS_SYSTEM_BUS_ADDRESS names. The end of ctx stops the dialling only. A bus
// that cannot be reached is api.NotRunning; a bus without vnetd is noticed by
// the first call. The caller must Close the client.
func Dial(ctx context.Context, opts ...Option) (*Client, error) {
	connCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	conn, err := sysbus.Connect(connCtx, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if !stop() {
		cancel()
		return nil, fmt.Errorf("dialling the system bus: %w", context.Cause(ctx))
	}
	if err != nil {
		cancel()
		return nil, &Error{
			Kind:    api.NotRunning,
			Message: fmt.Sprintf("vnetd cannot be reached, the system bus does not answer: %v", err),
		}
	}
	c := &Client{conn: conn, cancel: cancel}
	for _, opt := range opts {
		opt(c)
	}
	return c, nil
}

// Close ends the connection and every call on it. Files of ports stay open.
func (c *Client) Close() error {
	err := c.conn.Close()
	c.cancel()
	c.abandoned.Wait()
	return err
}

// Version returns the version of the running vnetd.
func (c *Client) Version(ctx context.Context) (string, error) {
	return managerProperty[string](ctx, c, "Version")
}

// Reload makes vnetd read its configuration and definitions again and repair
// what differs, as SIGHUP does.
func (c *Client) Reload(ctx context.Context) error {
	return c.call(ctx, rootPath, managerInterface+".Reload").into()
}

// LogLevel returns from which level on vnetd logs: debug, info, warn or error.
func (c *Client) LogLevel(ctx context.Context) (string, error) {
	return managerProperty[string](ctx, c, "LogLevel")
}

// SetLogLevel changes it until vnetd ends. api.Invalid if there is no such level.
func (c *Client) SetLogLevel(ctx context.Context, level string) error {
	return c.setProperty(ctx, rootPath, managerInterface, "LogLevel", level)
}

// Status returns what vnetd and all networks do.
func (c *Client) Status(ctx context.Context) (s api.Status, err error) {
	err = c.document(ctx, &s, "Describe")
	return s, err
}

// Counts returns what passes ports and what services are asked, counted until now: two
// of them make a rate.
func Counts(ctx context.Context, c *Client) (n api.Counts, err error) {
	err = c.document(ctx, &n, "Count")
	return n, err
}

// Clusters tells how the host stands to the others of each cluster that it is in, in order of
// name; it is in none without a [cluster.NAME] in its configuration.
func Clusters(ctx context.Context, c *Client) (all []api.Cluster, err error) {
	err = c.document(ctx, &all, "Clusters")
	return all, err
}

// RestoreCluster has the host write anew what is its own into the store of a cluster, which
// lost it or forgot the host. It begins at once; Clusters tells when it is done.
// api.InvalidState if the store lost nothing of it, api.NotFound if the host is in no such
// cluster.
func RestoreCluster(ctx context.Context, c *Client, name string) error {
	return c.call(ctx, rootPath, managerInterface+".RestoreCluster", name).into()
}

// Plan tells what a network of that document would be. It touches nothing. A fault
// in the document is api.Invalid; what is in the network's way is in the plan.
func (c *Client) Plan(ctx context.Context, xml string) (p api.Plan, err error) {
	err = c.document(ctx, &p, "Plan", xml)
	return p, err
}

// document calls a method of the Manager that answers in JSON, and reads that into
// doc.
func (c *Client) document(ctx context.Context, doc any, method string, args ...any) error {
	var text string
	if err := c.call(ctx, rootPath, managerInterface+"."+method, args...).into(&text); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), doc); err != nil {
		return badReply(managerInterface+"."+method, err)
	}
	return nil
}

// Describe returns vnetd's description of itself, a JSON object.
func (c *Client) Describe(ctx context.Context) (json.RawMessage, error) {
	return c.describe(ctx, rootPath, managerInterface)
}

// describe calls Describe of the interface at path.
func (c *Client) describe(ctx context.Context, path dbus.ObjectPath, iface string) (json.RawMessage, error) {
	var text string
	if err := c.call(ctx, path, iface+".Describe").into(&text); err != nil {
		return nil, err
	}
	if !json.Valid([]byte(text)) {
		return nil, badReply(iface+".Describe", fmt.Errorf("not JSON"))
	}
	return json.RawMessage(text), nil
}

// reply is the answer to one method call.
type reply struct {
	method string
	body   []any
	// err is what convertError returns.
	err error
}

// call calls a method of vnetd and waits for its answer or the end of ctx.
func (c *Client) call(ctx context.Context, path dbus.ObjectPath, method string, args ...any) reply {
	call := <-c.send(ctx, path, method, args...).Done
	return reply{method: method, body: call.Body, err: convertError(call.Err)}
}

// send sends a call of a method of vnetd. The bus library's own way drops the flag
// that allows a question for a password.
func (c *Client) send(ctx context.Context, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	dot := strings.LastIndexByte(method, '.')
	msg := &dbus.Message{
		Type: dbus.TypeMethodCall, Flags: c.flags, Body: args,
		Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldDestination: dbus.MakeVariant(busName),
			dbus.FieldPath:        dbus.MakeVariant(path),
			dbus.FieldInterface:   dbus.MakeVariant(method[:dot]),
			dbus.FieldMember:      dbus.MakeVariant(method[dot+1:]),
		},
	}
	if len(args) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(args...))
	}
	return c.conn.SendWithContext(ctx, msg, make(chan *dbus.Call, 1))
}

// into stores the results of the call, which must be as many as the API says.
func (r reply) into(results ...any) error {
	if r.err != nil {
		return r.err
	}
	if err := dbus.Store(r.body, results...); err != nil {
		return badReply(r.method, err)
	}
	return nil
}

// properties are the properties of one interface of one object.
type properties map[string]dbus.Variant

// property returns the property key, or the zero value if the object does not
// have it or has it with another type: vnetd may be older or newer.
func property[T any](p properties, key string) T {
	value, _ := p[key].Value().(T)
	return value
}

// managerProperty returns a property of vnetd itself.
func managerProperty[T any](ctx context.Context, c *Client, key string) (T, error) {
	var value dbus.Variant
	err := c.call(ctx, rootPath, propertiesInterface+".Get", managerInterface, key).into(&value)
	return property[T](properties{key: value}, key), err
}

// setProperty sets a property of the object.
func (c *Client) setProperty(ctx context.Context, path dbus.ObjectPath, iface, key string, value any) error {
	return c.call(ctx, path, propertiesInterface+".Set", iface, key, dbus.MakeVariant(value)).into()
}

// objectProperties returns all properties of one interface of the object.
func (c *Client) objectProperties(ctx context.Context, path dbus.ObjectPath, iface string) (properties, error) {
	var props properties
	err := c.call(ctx, path, propertiesInterface+".GetAll", iface).into(&props)
	return props, err
}

// managedObjects returns the properties of every object that has the interface.
func (c *Client) managedObjects(ctx context.Context, iface string) (map[dbus.ObjectPath]properties, error) {
	var objects map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	if err := c.call(ctx, rootPath, getManagedObjects).into(&objects); err != nil {
		return nil, err
	}
	found := make(map[dbus.ObjectPath]properties)
	for path, interfaces := range objects {
		if props, ok := interfaces[iface]; ok {
			found[path] = props
		}
	}
	return found, nil
}

// forwardPath is the object of the forward with a UUID, or with what is none, which
// nothing has.
func forwardPath(uuid string) dbus.ObjectPath {
	if !looksLikeUUID(uuid) {
		uuid = "none"
	}
	return rootPath + "/forward/" + dbus.ObjectPath(strings.ReplaceAll(strings.ToLower(uuid), "-", "_"))
}

// uuidOf returns the UUID that an object path ends in.
func uuidOf(path dbus.ObjectPath) string {
	text := string(path)
	return strings.ReplaceAll(text[strings.LastIndexByte(text, '/')+1:], "_", "-")
}
