package top

import (
	"unicode/utf8"

	"github.com/gdamore/tcell/v2"
)

// NewScreen returns the screen of the terminal of this process, for Run.
func NewScreen() (tcell.Screen, error) {
	tty, err := tcell.NewDevTty()
	if err != nil {
		return nil, err
	}
	return tcell.NewTerminfoScreenFromTty(&terminal{Tty: tty})
}

// terminal is a terminal of which only UTF-8 is read. tcell does not get past other bytes, such
// as those of a keyboard of Latin-1: it would hear no key any more, and never rest.
type terminal struct {
	tcell.Tty
	held []byte // the beginning of a letter, of which the rest did not come yet
}

// Read reads into p, which has room for a letter and more. It may read nothing.
func (t *terminal) Read(p []byte) (int, error) {
	begin := copy(p, t.held)
	n, err := t.Tty.Read(p[begin:])
	rest := p[:begin+max(n, 0)]
	n, t.held = 0, t.held[:0]
	for len(rest) > 0 {
		if !utf8.FullRune(rest) {
			t.held = append(t.held, rest...)
			break
		}
		r, size := utf8.DecodeRune(rest)
		if r != utf8.RuneError || size > 1 {
			n += copy(p[n:], rest[:size])
		}
		rest = rest[size:]
	}
	return n, err
}
