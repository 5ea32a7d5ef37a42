// Package clienttest is a vnetd for tests, as net/http/httptest is a web
// server: a private message bus and on it a service that speaks the API of
// org.vnetd1 over networks and ports that exist in memory only.
//
// It behaves: what is defined can be started, what is started cannot be started
// again, and so on, with vnetd's error names. It needs the program dbus-daemon
// and no privilege. The order of its identifiers is fixed, so that output can
// be compared with golden files. Unlike with vnetd, a port stays until it is
// released, whatever its lifetime, and its file is an empty file in memory unless
// the test says otherwise.
package clienttest
