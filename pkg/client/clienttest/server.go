package clienttest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
)

const (
	busName  = "org.vnetd1"
	rootPath = dbus.ObjectPath("/org/vnetd1")
)

// Owner is the user id that owns all ports of the server.
const Owner = 1000

// Version is what the server says its version is.
const Version = "1.2.3"

// Server is the fake vnetd. Its methods may be called at any time.
type Server struct {
	*Bus
	conn *dbus.Conn

	mu       sync.Mutex
	networks map[string]*network // by UUID
	ports    map[string]*port    // by UUID
	forwards map[string]*forward // by UUID
	failures map[string]*dbus.Error

	conditions []Condition
	counts     []api.Counts
	clusters   []api.Cluster
	bgp        *api.BGP
	logLevel   string // empty: info
	pending    bool   // libvirt's networks are to be imported

	holds    map[string]chan struct{}
	requests []map[string]any
	reloads  int
	openPort func(ifname string, vnetHdr bool) (*os.File, error)
	serial   int
}

// The API, method by method: their exported methods are those of an interface on the
// bus. An object's methods learn from the message which object is meant.
type (
	manager       struct{ *Server }
	networkObject struct{ *Server }
	portObject    struct{ *Server }
	forwardObject struct{ *Server }
	objects       struct{ *Server } // ObjectManager and Properties
)

// Start starts a bus and the server on it. The caller must Close it.
func Start() (*Server, error) {
	bus, err := StartBus()
	if err != nil {
		return nil, err
	}
	s := &Server{
		Bus:      bus,
		networks: make(map[string]*network),
		ports:    make(map[string]*port),
		forwards: make(map[string]*forward),
		failures: make(map[string]*dbus.Error),
		holds:    make(map[string]chan struct{}),
		openPort: openMemory,
	}
	if err := s.serve(); err != nil {
		return nil, errors.Join(fmt.Errorf("serving %s: %w", busName, err), s.Close())
	}
	return s, nil
}

// New starts a server for one test, points DBUS_SYSTEM_BUS_ADDRESS to it, and
// closes it when the test is over.
func New(tb testing.TB) *Server {
	tb.Helper()
	s, err := Start()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("closing the fake vnetd: %v", err)
		}
	})
	tb.Setenv("DBUS_SYSTEM_BUS_ADDRESS", s.Address)
	return s
}

// serve connects to the bus and takes vnetd's name.
func (s *Server) serve() error {
	conn, err := dbus.Connect(s.Address)
	if err != nil {
		return err
	}
	s.conn = conn
	for iface, object := range map[string]any{
		"org.vnetd1.Manager": manager{s}, "org.vnetd1.Network": networkObject{s}, "org.vnetd1.Port": portObject{s},
		"org.vnetd1.Forward":                 forwardObject{s},
		"org.freedesktop.DBus.ObjectManager": objects{s}, "org.freedesktop.DBus.Properties": objects{s},
	} {
		if err := conn.ExportSubtree(object, rootPath, iface); err != nil {
			return err
		}
	}
	_, err = conn.RequestName(busName, dbus.NameFlagDoNotQueue)
	return err
}

// Close ends the server and its bus.
func (s *Server) Close() error {
	s.mu.Lock()
	for _, hold := range s.holds {
		close(hold)
	}
	clear(s.holds)
	s.mu.Unlock()
	if s.conn != nil {
		// The bus goes next; an error here has no effect.
		_ = s.conn.Close()
	}
	err := s.Bus.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, port := range s.ports {
		err = errors.Join(err, port.close())
	}
	clear(s.ports)
	return err
}

// Leave makes the server give its name up, as a vnetd that ended.
func (s *Server) Leave() error {
	_, err := s.conn.ReleaseName(busName)
	return err
}

// Fail makes every later call of the method, as "Start", fail with the D-Bus
// error name. A name without a dot is completed to one of vnetd's.
func (s *Server) Fail(method, name, message string) {
	if !strings.Contains(name, ".") {
		name = "org.vnetd1.Error." + name
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures[method] = dbus.NewError(name, []any{message})
}

// Hold makes every later call of the method wait until the returned function
// is called, once.
func (s *Server) Hold(method string) (release func()) {
	hold := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds[method] = hold
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.holds, method)
		close(hold)
	}
}

// OpenPortsWith makes the server open the files of later ports with open, as
// real TAP devices where the test may make some.
func (s *Server) OpenPortsWith(open func(ifname string, vnetHdr bool) (*os.File, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.openPort = open
}

// Reloads returns how often Reload was called.
func (s *Server) Reloads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reloads
}

// enter stands at the head of every method: it waits if the method is held and
// returns its error if it shall fail.
func (s *Server) enter(method string) *dbus.Error {
	s.mu.Lock()
	hold := s.holds[method]
	s.mu.Unlock()
	if hold != nil {
		<-hold
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures[method]
}

// uuid returns the next identifier. s.mu must be locked.
func (s *Server) uuid() string {
	s.serial++
	return fmt.Sprintf("00000000-0000-4000-8000-%012x", s.serial)
}

// errorf makes an error of one of vnetd's kinds.
func errorf(kind, format string, args ...any) *dbus.Error {
	return dbus.NewError("org.vnetd1.Error."+kind, []any{fmt.Sprintf(format, args...)})
}

// objectPath returns the path of the network or port with the UUID.
func objectPath(kind, uuid string) dbus.ObjectPath {
	return rootPath + dbus.ObjectPath("/"+kind+"/"+strings.ReplaceAll(uuid, "-", "_"))
}

// pathOf returns the path of the object that a call is for.
func pathOf(msg dbus.Message) dbus.ObjectPath {
	path, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	return path
}

// uuidOf returns the UUID at the end of a path.
func uuidOf(path dbus.ObjectPath) string {
	text := string(path)
	return strings.ReplaceAll(text[strings.LastIndexByte(text, '/')+1:], "_", "-")
}

// sortedKeys returns the keys of m in order.
func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
