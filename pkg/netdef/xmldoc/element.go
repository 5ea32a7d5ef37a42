package xmldoc

import (
	"fmt"
	"strings"
)

// Element is a node in the hands of the decoder: reading marks what was read,
// and a value that can't be read becomes a fault.
type Element struct {
	*Node
	Faults *Faults
}

// At marks n as read under path.
func (e Element) At(n *Node, path string) Element {
	n.Path = path
	return Element{Node: n, Faults: e.Faults}
}

// First returns the first child of that name. Any further one is left unread,
// as libvirt does.
func (e Element) First(name string) (Element, bool) {
	for _, kid := range e.Kids {
		if kid.Name == name && kid.Space == "" {
			return e.At(kid, e.Path+"/"+name), true
		}
	}
	return Element{}, false
}

// All returns the children of that name in order.
func (e Element) All(name string) []Element { return e.Children("", name) }

// Children is all for a namespace.
func (e Element) Children(space, name string) []Element {
	var list []Element
	for _, kid := range e.Kids {
		if kid.Name == name && kid.Space == space {
			list = append(list, e.At(kid, fmt.Sprintf("%s/%s[%d]", e.Path, kid.QName, len(list)+1)))
		}
	}
	return list
}

// Attr returns an attribute and whether it is there.
func (e Element) Attr(name string) (string, bool) {
	for _, a := range e.Attrs {
		if a.Name == name && a.Space == "" {
			a.Used = true
			return a.Value, true
		}
	}
	return "", false
}

// Str returns an attribute as it is; empty and absent are the same.
func (e Element) Str(name string) string {
	s, _ := e.Attr(name)
	return s
}

// Content returns the text of the first child of that name; empty and absent
// are the same.
func (e Element) Content(name string) string {
	if kid, ok := e.First(name); ok {
		return string(kid.Text)
	}
	return ""
}

// Value reads an attribute with parse. It returns the zero value if the
// attribute is absent, and adds a fault if it can't be read.
func Value[T any](e Element, name string, parse func(string) (T, error)) T {
	var zero T
	s, ok := e.Attr(name)
	if !ok {
		return zero
	}
	v, err := parse(s)
	if err != nil {
		e.Fault("@"+name, s, err.Error())
		return zero
	}
	return v
}

// Fault adds a fault at a place relative to e.
func (e Element) Fault(at, val, problem string) {
	e.Faults.Add(e.Path+"/"+at, val, problem)
}

// Only returns the first child of that name, and adds a fault for each more.
func (e Element) Only(name string) (Element, bool) {
	all := e.All(name)
	if len(all) == 0 {
		return Element{}, false
	}
	for _, more := range all[1:] {
		more.Faults.Addf(more.Path, "", "only one <%s> is allowed", name)
	}
	return all[0].At(all[0].Node, e.Path+"/"+name), true
}

// OnlyIn is Only for a namespace, and a name with its usual prefix. What is inside those that are
// too many is no fault of its own.
func (e Element) OnlyIn(space, qname string) (Element, bool) {
	_, name, _ := strings.Cut(qname, ":")
	all := e.Children(space, name)
	if len(all) == 0 {
		return Element{}, false
	}
	for _, more := range all[1:] {
		more.KeepRaw = true
		more.Faults.Addf(more.Path, "", "only one <%s> is allowed", qname)
	}
	return e.At(all[0].Node, strings.TrimSuffix(all[0].Path, "[1]")), true
}

// Required is value for a port that must be there.
func (e Element) Required(name string, parse func(string) (uint16, error)) uint16 {
	if _, ok := e.Attr(name); !ok {
		e.Fault("@"+name, "", "missing, want a number from 0 to 65535")
	}
	return Value(e, name, parse)
}

// FaultUnless adds a fault unless an attribute has the one value it may have.
func (e Element) FaultUnless(name, want string) {
	if got := e.Str(name); got != want {
		e.Fault("@"+name, got, "want "+want)
	}
}
