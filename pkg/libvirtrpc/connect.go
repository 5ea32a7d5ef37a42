package libvirtrpc

import (
	"context"
)

// connectionURI is what a connection to this driver is called.
const connectionURI = "network:///system"

// libVersion is the version of libvirt whose network driver this one equals,
// 1000000 * major + 1000 * minor + micro.
const libVersion = 9_007_000

// features that virConnectSupportsFeature is asked for and that are there
// (virDrvFeature), as virtnetworkd has them.
const featureKeepalive = 10

func features() map[int32]bool {
	return map[int32]bool{
		8:                true, // FD_PASSING
		9:                true, // TYPED_PARAM_STRING
		featureKeepalive: true, // PROGRAM_KEEPALIVE
		14:               true, // REMOTE_EVENT_CALLBACK
		15:               true, // REMOTE_CLOSE_CALLBACK
		16:               true, // NETWORK_UPDATE_HAS_CORRECT_ORDER: without it, clients swap command and section
	}
}

// openArgs are those of virConnectOpen.
type openArgs struct {
	uri   *string
	flags uint32
}

func readOpen(d *decoder) openArgs { return openArgs{d.optString(), d.uint32()} }

// connectOpen opens the connection. Flags that are not known are ignored:
// go-libvirt sends some.
func connectOpen(_ context.Context, c *session, a openArgs, _ *encoder) error {
	const readOnly = 1 // VIR_CONNECT_RO
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open {
		return rpcf(codeInternal, "connection already open")
	}
	c.open = true
	c.readsOnly = c.readOnly || a.flags&readOnly != 0
	return nil
}

// connectClose ends the connection once it is answered.
func connectClose(context.Context, *session, noArgs, *encoder) error { return errDone }

func connectFeature(_ context.Context, c *session, feature int32, results *encoder) error {
	if feature == featureKeepalive {
		c.keepalive()
	}
	results.flag(features()[feature])
	return nil
}

func connectType(_ context.Context, _ *session, _ noArgs, results *encoder) error {
	results.string("network")
	return nil
}

func connectURI(_ context.Context, _ *session, _ noArgs, results *encoder) error {
	results.string(connectionURI)
	return nil
}

func connectIsSecure(_ context.Context, _ *session, _ noArgs, results *encoder) error {
	results.flag(true)
	return nil
}

func connectLibVersion(_ context.Context, _ *session, _ noArgs, results *encoder) error {
	results.uint64(libVersion)
	return nil
}

// identityArgs are those of virConnectSetIdentity.
type identityArgs struct {
	params []param
	flags  uint32
}

func readIdentity(d *decoder) identityArgs {
	return identityArgs{d.params(maxIdentityParams), d.uint32()}
}

// connectSetIdentity hears on whose behalf a daemon of libvirt calls. It is
// believed of root alone, logged, and gives no right.
func connectSetIdentity(_ context.Context, c *session, a identityArgs, _ *encoder) error {
	if err := checkFlags(a.flags, 0, "virConnectSetIdentity"); err != nil {
		return err
	}
	if c.peer.uid != 0 {
		return failf(codeDenied, "only root may speak for somebody else")
	}
	for _, p := range a.params {
		if p.field == "unix-user-id" || p.field == "user-name" {
			c.log.Debug("a client speaks for somebody else", p.field, p.value)
		}
	}
	return nil
}
