package netdef

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef/schema"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// Command is what an update does to a section. The values are libvirt's
// virNetworkUpdateCommand.
type Command int

// The commands.
const (
	CommandModify   Command = 1 // replace the entry that matches
	CommandDelete   Command = 2 // remove the entry that matches
	CommandAddLast  Command = 3 // append an entry
	CommandAddFirst Command = 4 // put an entry before the others
)

// commandNames are the names of commands, by value.
func commandNames() []string { return []string{"none", "modify", "delete", "add-last", "add-first"} }

// String returns virsh's name of c.
func (c Command) String() string { return nameOf(commandNames(), int(c)) }

// ParseCommand reads virsh's name of a command; "add" is add-last.
func ParseCommand(name string) (Command, error) {
	if name == "add" {
		return CommandAddLast, nil
	}
	v, err := valueOf(commandNames(), "command", name)
	return Command(v), err
}

// Section is a part of a network that an update is about. The values are
// libvirt's virNetworkUpdateSection, but for those of what libvirt does not have. The first three, and those of forward and
// of a physical function, can't be updated; they are named so that the error
// can name them.
type Section int

// The sections.
const (
	SectionBridge           Section = 1
	SectionDomain           Section = 2
	SectionIP               Section = 3
	SectionIPDHCPHost       Section = 4 // <host> of <dhcp>
	SectionIPDHCPRange      Section = 5 // <range> of <dhcp>
	SectionForward          Section = 6
	SectionForwardInterface Section = 7 // <interface> of <forward>
	SectionForwardPF        Section = 8
	SectionPortGroup        Section = 9
	SectionDNSHost          Section = 10 // <host> of <dns>
	SectionDNSTXT           Section = 11
	SectionDNSSRV           Section = 12

	// Sections of what libvirt does not have, with numbers that it will not have.
	SectionRecord Section = 1 << 20 // <vnetd:record>
)

// recordSection is the name of SectionRecord.
const recordSection = "vnetd-record"

// sectionNames are the names of sections, by value.
func sectionNames() []string {
	return []string{
		"none", "bridge", "domain", "ip", "ip-dhcp-host", "ip-dhcp-range", "forward", "forward-interface",
		"forward-pf", "portgroup", "dns-host", "dns-txt", "dns-srv",
	}
}

// String returns virsh's name of s, or that of a section of our own.
func (s Section) String() string {
	if s == SectionRecord {
		return recordSection
	}
	return nameOf(sectionNames(), int(s))
}

// ParseSection reads the name of a section.
func ParseSection(name string) (Section, error) {
	names := append(sectionNames(), recordSection)
	v, err := valueOf(names, "section", name)
	if v == len(names)-1 {
		return SectionRecord, nil
	}
	return Section(v), err
}

// nameOf returns the name of a value, or its number if it has none.
func nameOf(names []string, v int) string {
	if v < 1 || v >= len(names) {
		return fmt.Sprint(v)
	}
	return names[v]
}

// valueOf returns the value of a name. The first name is of no value.
func valueOf(names []string, what, name string) (int, error) {
	if i := slices.Index(names, name); i > 0 {
		return i, nil
	}
	return 0, fmt.Errorf("unknown %s %q, want one of %s", what, xmldoc.OneLine(name), strings.Join(names[1:], ", "))
}

// Update is one change of one entry of a network.
type Update struct {
	Command Command
	Section Section
	// Index is the <ip> whose DHCP is meant, counted from 0. Negative: the
	// first that has DHCP, or else the first IPv4 one, or else the first.
	Index int
	// XML is the entry. To delete, it need only have what identifies it.
	XML []byte
}

// Reason is why an update can't be applied. Each is an error that errors.Is
// finds in what Network.Update returns.
type Reason string

// The reasons.
const (
	ErrNoEntry     Reason = "no matching entry"
	ErrEntryExists Reason = "a matching entry exists"
	ErrAmbiguous   Reason = "more than one matching entry"
	ErrUnsupported Reason = "the section or command can't be updated"
)

// Error returns the reason in words.
func (r Reason) Error() string { return string(r) }

// UpdateError is an update that fits the schema but not the network.
type UpdateError struct {
	Reason  Reason
	Network string  // name of the network
	Section Section // as in the update
	Problem string  // the whole sentence, with the values in question
}

// Error returns the problem.
func (e *UpdateError) Error() string { return e.Problem }

// Unwrap returns the reason.
func (e *UpdateError) Unwrap() error { return e.Reason }

// updater applies one update to a copy of a network.
type updater struct {
	Update
	n      *Network
	faults Faults
}

// Update applies u to n as virNetworkUpdate does, by libvirt's rules of what
// matches; docs/networks.md has them. If it returns an error, n is unchanged.
// The error is an *UpdateError, or of type Faults: either what can't be read in
// u.XML, whose paths begin at its root, or what would be wrong with the network
// as a whole afterwards and is not already.
func (n *Network) Update(u Update) error {
	up := &updater{Update: u, n: n.Clone()}
	if err := up.apply(); err != nil {
		return err
	}
	if err := up.n.validate(true).Without(n.validate(true)).Err(); err != nil {
		return err
	}
	*n = *up.n
	return nil
}

// section is how the entries of one section are updated.
type section struct {
	element string // name of the entry
	modify  bool   // entries can be replaced
	apply   func(up *updater, e xmldoc.Element) error
}

// sections returns the sections that can be updated.
func sections() map[Section]section {
	return map[Section]section{
		SectionIPDHCPHost:       {"host", true, (*updater).dhcpHost},
		SectionIPDHCPRange:      {"range", false, (*updater).dhcpRange},
		SectionForwardInterface: {"interface", false, (*updater).forwardInterface},
		SectionPortGroup:        {"portgroup", true, (*updater).portGroup},
		SectionDNSHost:          {"host", true, (*updater).dnsHost},
		SectionDNSTXT:           {"txt", true, (*updater).dnsTXT},
		SectionDNSSRV:           {"srv", true, (*updater).dnsSRV},
		SectionRecord:           {"record", true, (*updater).record},
	}
}

// apply changes the copy.
func (up *updater) apply() error {
	s, ok := sections()[up.Section]
	switch {
	case !ok:
		return up.fail(ErrUnsupported, "can't update '%s' section of network '%s'", up.Section, up.n.Name)
	case up.Command < CommandModify || up.Command > CommandAddFirst:
		return up.fail(ErrUnsupported, "unknown update command %d of network '%s'", up.Command, up.n.Name)
	case up.Command == CommandModify && !s.modify:
		return up.fail(ErrUnsupported, "an entry of the '%s' section of network '%s' can't be modified: delete it and add the new one",
			up.Section, up.n.Name)
	}
	root, err := xmldoc.ParseEntry(up.XML, map[string]string{"vnetd": schema.NamespaceVnetd})
	if err != nil {
		return Faults{xmldoc.AsFault(err)}
	}
	if up.Section == SectionRecord && root.Space == schema.NamespaceVnetd {
		root.Space = "" // one may write it either way
	}
	if root.Name != s.element || root.Space != "" {
		return Faults{{Problem: fmt.Sprintf("the entry is a <%s>, want <%s> for the '%s' section", xmldoc.OneLine(root.QName), s.element, up.Section)}}
	}
	e := xmldoc.Element{Faults: &up.faults}.At(root, s.element)
	return s.apply(up, e)
}

// fail returns an UpdateError.
func (up *updater) fail(r Reason, format string, args ...any) error {
	return &UpdateError{Reason: r, Network: up.n.Name, Section: up.Section, Problem: fmt.Sprintf(format, args...)}
}

// adds reports whether an entry is added.
func (up *updater) adds() bool {
	return up.Command == CommandAddFirst || up.Command == CommandAddLast
}

// rule is what entries of one section match by.
type rule[T any] struct {
	conflict func(*T) bool // an entry that keeps the new one from being added
	modify   func(*T) bool // an entry that is replaced
	remove   func(*T) bool // an entry that is deleted
	// unique refuses to delete or modify if several entries match; otherwise
	// the first is meant.
	unique bool
}

// change applies the command to list, whose entries print renders. It returns
// the changed list.
func change[T any](up *updater, list []T, entry T, r rule[T], print func(*xmldoc.Printer, *T)) ([]T, error) {
	match := map[Command]func(*T) bool{
		CommandAddFirst: r.conflict, CommandAddLast: r.conflict, CommandModify: r.modify, CommandDelete: r.remove,
	}[up.Command]
	var found []int
	for i := range list {
		if match(&list[i]) {
			found = append(found, i)
		}
	}
	show := func(e *T) string { return compact(func(p *xmldoc.Printer) { print(p, e) }) }
	switch {
	case up.adds() && len(found) > 0:
		return nil, up.fail(ErrEntryExists, "network '%s' already has %s, which matches %s",
			up.n.Name, show(&list[found[0]]), show(&entry))
	case up.adds():
		return slices.Insert(list, up.position(len(list)), entry), nil
	case len(found) == 0:
		return nil, up.fail(ErrNoEntry, "network '%s' has no entry that matches %s", up.n.Name, show(&entry))
	case len(found) > 1 && r.unique:
		return nil, up.fail(ErrAmbiguous, "network '%s' has %d entries that match %s: %s and %s",
			up.n.Name, len(found), show(&entry), show(&list[found[0]]), show(&list[found[1]]))
	case up.Command == CommandModify:
		list[found[0]] = entry
		return list, nil
	}
	if len(list) == 1 {
		return nil, nil // as Parse has it
	}
	return slices.Delete(list, found[0], found[0]+1), nil
}

// position returns where an entry is added.
func (up *updater) position(length int) int {
	if up.Command == CommandAddFirst {
		return 0
	}
	return length
}

// readable returns the faults of what was read so far, nil if there are none.
func (up *updater) readable() error { return up.faults.Err() }

// compact returns what print prints on one line, for a message.
func compact(print func(*xmldoc.Printer)) string {
	p := &xmldoc.Printer{}
	print(p)
	var b strings.Builder
	for line := range strings.Lines(p.Buf.String()) {
		b.WriteString(strings.TrimSpace(line))
	}
	return xmldoc.OneLine(b.String())
}
