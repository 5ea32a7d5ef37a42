package libvirtrpc

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// code is a virErrorNumber.
type code int32

// The codes that the network driver gives.
const (
	codeInternal      code = 1
	codeNoSupport     code = 3
	codeInvalidArg    code = 8
	codeFailed        code = 9
	codeXML           code = 27
	codeDenied        code = 29
	codeXMLDetail     code = 35
	codeSystem        code = 38
	codeRPC           code = 39
	codeNoNetwork     code = 43
	codeInvalidMAC    code = 44
	codeAuthFailed    code = 45
	codeInvalidState  code = 55
	codeUnsupported   code = 67
	codeAuthCancelled code = 79
	codeNotOperable   code = 84
	codeSchema        code = 92
	codeNoAgent       code = 94
	codePortExists    code = 106
	codeNoPort        code = 107
	codeNoMetadata    code = 111
)

// domain is a virErrorDomain: the part of libvirt that an error is from.
type domain int32

// The domains.
const (
	domainXML     domain = 5
	domainRPC     domain = 7
	domainNetwork domain = 19
	domainDaemon  domain = 20
	domainPolkit  domain = 60
)

// templates are libvirt's sentences, by code, of those that are not the bare
// text. Clients print what they are sent, so the server puts text and sentence
// together.
func templates() map[code]string {
	return map[code]string{
		codeInternal:      "internal error: %s",
		codeNoSupport:     "this function is not supported by the connection driver: %s",
		codeInvalidArg:    "invalid argument: %s",
		codeFailed:        "operation failed: %s",
		codeXML:           "XML error: %s",
		codeDenied:        "operation forbidden: %s",
		codeNoNetwork:     "Network not found: %s",
		codeInvalidMAC:    "invalid MAC address: %s",
		codeAuthFailed:    "authentication failed: %s",
		codeInvalidState:  "Requested operation is not valid: %s",
		codeUnsupported:   "unsupported configuration: %s",
		codeAuthCancelled: "authentication cancelled: %s",
		codeNotOperable:   "Operation not supported: %s",
		codeSchema:        "XML document failed to validate against schema: %s",
		codeNoAgent:       "authentication unavailable: %s",
		codePortExists:    "network port %s exists already",
		codeNoPort:        "network port not found: %s",
		codeNoMetadata:    "metadata not found: %s",
	}
}

// Error is an error as a client of libvirt gets it.
type Error struct {
	code   code
	domain domain
	text   string // what is put into the code's sentence
}

// Error returns the whole sentence.
func (e *Error) Error() string {
	if t := e.template(); t != "%s" {
		return fmt.Sprintf(t, e.text)
	}
	return e.text
}

// template is the sentence of e's code.
func (e *Error) template() string {
	// An unknown flag comes without the words of its code.
	if t, ok := templates()[e.code]; ok && !strings.HasPrefix(e.text, "unsupported flags (") {
		return t
	}
	return "%s"
}

// failf is an error of the network driver; the format is fmt.Sprintf's.
func failf(c code, format string, args ...any) error {
	return &Error{c, domainNetwork, fmt.Sprintf(format, args...)}
}

// rpcf is an error of the protocol itself.
func rpcf(c code, format string, args ...any) error {
	return &Error{c, domainRPC, fmt.Sprintf(format, args...)}
}

// encode writes e as a remote_error: what virNetServerProgramSendError sends.
func (e *Error) encode(out *encoder) {
	const levelError = 2
	message, template := e.Error(), e.template()
	out.int32(int32(e.code))
	out.int32(int32(e.domain))
	out.optString(&message)
	out.int32(levelError)
	out.optString(nil) // a guest
	out.optString(&template)
	out.optString(&e.text)
	out.optString(nil)
	out.int32(-1)
	out.int32(-1)
	out.optString(nil) // a network
}

// asError is err in libvirt's words: as it is where it already is so, otherwise
// by its kind.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if c, ok := errors.AsType[*netdef.Conflict](err); ok {
		return conflictError(c)
	}
	if faults, ok := errors.AsType[netdef.Faults](err); ok {
		return faultsError(faults)
	}
	if u, ok := errors.AsType[*netdef.UpdateError](err); ok {
		c := codeInvalidState
		if u.Reason == netdef.ErrUnsupported {
			c = codeNotOperable
		}
		return &Error{c, domainNetwork, u.Problem}
	}
	if errors.Is(err, network.ErrFloor) {
		return &Error{codeNotOperable, domainNetwork, err.Error()}
	}
	c, ok := map[api.Kind]code{
		api.NotFound:      codeNoNetwork,
		api.Exists:        codeFailed,
		api.Invalid:       codeInvalidArg,
		api.InvalidState:  codeInvalidState,
		api.Conflict:      codeInternal,
		api.Unsupported:   codeUnsupported,
		api.Denied:        codeDenied,
		api.LimitExceeded: codeFailed,
	}[network.KindOf(err)]
	if !ok {
		c = codeInternal
	}
	return &Error{c, domainNetwork, err.Error()}
}

// faultsError is the error of a document that can't be read or can't work.
func faultsError(faults netdef.Faults) *Error {
	switch first := faults[0]; first.Path {
	case "":
		return &Error{codeXMLDetail, domainNetwork, faults.Error()}
	case "networkport/virtualport": // in libvirt's words
		return &Error{codeXML, domainNetwork, first.Problem}
	}
	return &Error{codeXML, domainNetwork, faults.Error()}
}

// conflictError is the error of a network that claims what another has, by what
// it claims.
func conflictError(c *netdef.Conflict) *Error {
	switch c.Path {
	case "network/bridge/@name":
		return &Error{codeInternal, domainNetwork, fmt.Sprintf("bridge name '%s' already in use.", c.Value)}
	case "network/name", "network/uuid":
		return &Error{codeFailed, domainNetwork, c.Problem}
	}
	return &Error{codeUnsupported, domainNetwork, c.Error()}
}
