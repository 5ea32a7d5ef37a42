package libvirt

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"

	"github.com/vnetd/vnetd/pkg/api"
)

// networkDocument is what a mirror needs of a network's document. What stands in
// it as raw is taken over as it is.
type networkDocument struct {
	XMLName    xml.Name        `xml:"network"`
	Trusted    string          `xml:"trustGuestRxFilters,attr,omitempty"`
	Name       string          `xml:"name"`
	UUID       string          `xml:"uuid"`
	Metadata   *mirrorMetadata `xml:"metadata"`
	Forward    *mirrorForward  `xml:"forward"`
	Bridge     documentBridge  `xml:"bridge"`
	VLAN       *rawElement     `xml:"vlan"`
	Switch     *rawElement     `xml:"virtualport"`
	Port       *rawElement     `xml:"port"`
	PortGroups []documentGroup `xml:"portgroup"`
}

// mirrorMetadata has the mark by which a mirror is known.
type mirrorMetadata struct {
	Mark *mirrorMark `xml:"urn:vnetd:mirror:1 mirror"`
}

// mirrorMark says of what a mirror was made: the digest of its document without the
// mark.
type mirrorMark struct {
	Of string `xml:"of,attr"`
}

type mirrorForward struct {
	Mode string `xml:"mode,attr"`
}

type documentBridge struct {
	Name            string `xml:"name,attr"`
	MACTableManager string `xml:"macTableManager,attr,omitempty"`
}

type rawElement struct {
	Attributes []xml.Attr `xml:",any,attr"`
	Inner      string     `xml:",innerxml"`
}

type documentGroup struct {
	Name      string             `xml:"name,attr"`
	Default   string             `xml:"default,attr,omitempty"`
	Trusted   string             `xml:"trustGuestRxFilters,attr,omitempty"`
	Bandwidth *documentBandwidth `xml:"bandwidth"`
	VLAN      *rawElement        `xml:"vlan"`
	Switch    *rawElement        `xml:"virtualport"`
}

// documentBandwidth has no floor, which libvirt takes on a bridge of its own alone.
type documentBandwidth struct {
	Inbound  *documentRate `xml:"inbound"`
	Outbound *documentRate `xml:"outbound"`
}

type documentRate struct {
	Average string `xml:"average,attr,omitempty"`
	Peak    string `xml:"peak,attr,omitempty"`
	Burst   string `xml:"burst,attr,omitempty"`
}

// mirror is a network of vnetd as libvirtd is to have it.
type mirror struct {
	name, uuid        string
	document, digest  string
	active, autostart bool
}

// newMirror makes the mirror of n, whose document is text: libvirtd is told of a
// bridge that somebody else looks after.
func newMirror(n api.Network, text string) (*mirror, error) {
	var doc networkDocument
	if err := xml.Unmarshal([]byte(text), &doc); err != nil {
		return nil, fmt.Errorf("reading the document of network %q: %w", n.Name, err)
	}
	doc.XMLName = xml.Name{Local: "network"}
	doc.Metadata, doc.Forward = nil, &mirrorForward{"bridge"}
	doc.Bridge.Name = n.Bridge
	for i := range doc.PortGroups {
		doc.PortGroups[i].Bandwidth = doc.PortGroups[i].Bandwidth.withoutFloor()
	}
	bare, err := xml.Marshal(doc)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(bare)
	mark := &mirrorMark{Of: hex.EncodeToString(digest[:])}
	doc.Metadata = &mirrorMetadata{mark}
	marked, err := xml.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, err
	}
	return &mirror{
		name: n.Name, uuid: n.UUID, document: string(marked) + "\n", digest: mark.Of,
		active: n.Active, autostart: n.Autostart,
	}, nil
}

// withoutFloor is b without what is there for a floor alone; nil for nothing.
func (b *documentBandwidth) withoutFloor() *documentBandwidth {
	if b == nil {
		return nil
	}
	rest := *b
	if rest.Inbound != nil && rest.Inbound.Average == "" {
		rest.Inbound = nil
	}
	if rest == (documentBandwidth{}) {
		return nil
	}
	return &rest
}

// digest is that of the mark, empty for what is no mirror.
func (d *networkDocument) digest() string {
	if d.Metadata == nil || d.Metadata.Mark == nil {
		return ""
	}
	return d.Metadata.Mark.Of
}
