package graph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// Text writes the graph as a tree. paint dresses the name of a node; nil leaves it as it is.
func (g Graph) Text(w io.Writer, paint func(n *Node, name string) string) error {
	t := &tree{links: g.Links, paint: paint}
	for _, n := range g.Roots {
		t.node(n, "", "")
	}
	_, err := io.WriteString(w, t.text.String())
	return err
}

// tree is a graph on its way to be text.
type tree struct {
	text  strings.Builder
	links []Link
	paint func(*Node, string) string
}

// node writes a node behind a prefix, and what hangs on it behind another one.
func (t *tree) node(n *Node, prefix, below string) {
	name := clean(n.Name)
	if t.paint != nil {
		name = t.paint(n, name)
	}
	t.text.WriteString(prefix + name)
	if len(n.Notes) > 0 {
		t.text.WriteString("  " + clean(strings.Join(n.Notes, ", ")))
	}
	t.text.WriteString("\n")
	notes := t.notes(n.ID)
	for i, note := range notes {
		t.text.WriteString(below + branch(i == len(notes)-1 && len(n.On) == 0) + note + "\n")
	}
	for i, child := range n.On {
		last := i == len(n.On)-1
		next := "│  "
		if last {
			next = "   "
		}
		t.node(child, below+branch(last), below+next)
	}
}

// branch is what stands ahead of a line below another one.
func branch(last bool) string {
	if last {
		return "└─ "
	}
	return "├─ "
}

// notes are the links of a node as lines.
func (t *tree) notes(id string) (all []string) {
	for _, l := range t.links {
		waiting := ""
		if l.Waiting {
			waiting = " (waiting)"
		}
		switch {
		case l.From == host && l.To == id:
			all = append(all, "← "+clean(l.Label)+waiting)
		case l.From == id:
			_, name, _ := strings.Cut(l.To, " ")
			all = append(all, "↔ "+clean(name)+": "+clean(l.Label)+waiting)
		}
	}
	return all
}

// clean is text for a terminal, on one line.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return '�'
		}
		return r
	}, s)
}

// DOT writes the graph in the language of graphviz.
func (g Graph) DOT(w io.Writer) error {
	var b strings.Builder
	b.WriteString("digraph vnetd {\n\trankdir=LR;\n\tnode [shape=box, style=rounded, fontname=\"sans-serif\"];\n\tedge [fontname=\"sans-serif\", fontsize=10];\n")
	var nodes func(n *Node)
	written := make(map[string]bool)
	nodes = func(n *Node) {
		if !written[n.ID] {
			written[n.ID] = true
			fmt.Fprintf(&b, "\t%s [label=%s%s];\n", quote(n.ID), quote(strings.Join(slices.Concat([]string{n.Name}, n.Notes), "\n")), shape(n))
		}
		for _, child := range n.On {
			nodes(child)
			if edge := n.ID + "\x00" + child.ID; !written[edge] {
				written[edge] = true
				fmt.Fprintf(&b, "\t%s -> %s [dir=none];\n", quote(n.ID), quote(child.ID))
			}
		}
	}
	for _, n := range g.Roots {
		nodes(n)
	}
	for _, l := range g.Links {
		if !written[l.From] {
			written[l.From] = true
			fmt.Fprintf(&b, "\t%s [label=\"this host\", shape=house];\n", quote(l.From))
		}
		style := "dashed"
		if l.Waiting {
			style = "dotted"
		}
		fmt.Fprintf(&b, "\t%s -> %s [label=%s, style=%s, constraint=false];\n", quote(l.From), quote(l.To), quote(l.Label), style)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// shape is how a node looks.
func shape(n *Node) string {
	s := map[Kind]string{Outside: ", shape=ellipse", Network: ", style=\"rounded,bold\"", Guest: ""}[n.Kind]
	if n.Bad {
		s += ", color=red"
	}
	return s
}

// quote makes a string of graphviz's.
func quote(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s)
	lines := strings.Split(s, `\n`)
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return `"` + strings.Join(lines, `\n`) + `"`
}

// SVG writes the graph as a picture, which dot(1) lays out. The error says how to install that
// where it is not.
func (g Graph) SVG(ctx context.Context, w io.Writer) error {
	path, err := exec.LookPath("dot")
	if err != nil {
		return errors.New("graphviz, which lays the picture out, is not installed: install its package, or take --dot to where it is")
	}
	var text, said bytes.Buffer
	if err := g.DOT(&text); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, "-Tsvg")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &text, w, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, clean(strings.TrimSpace(said.String())))
	}
	return nil
}
