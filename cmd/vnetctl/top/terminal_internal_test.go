package top

import (
	"io"
	"testing"

	"github.com/gdamore/tcell/v2"
)

// pieces is a terminal from which one piece comes with each Read.
type pieces struct {
	tcell.Tty
	all []string
}

func (p *pieces) Read(b []byte) (n int, err error) {
	if len(p.all) == 0 {
		return 0, io.EOF
	}
	n = copy(b, p.all[0])
	p.all = p.all[1:]
	return n, nil
}

// TestTerminal reads what is pressed, and nothing that is no UTF-8, which tcell would not get
// past.
func TestTerminal(t *testing.T) {
	for _, c := range []struct {
		typed []string
		want  string
	}{
		{[]string{"/web", "\r", "q"}, "/web\rq"},
		{[]string{"\xff", "q"}, "q"},
		{[]string{"a\xe4b", "\xe4", "q"}, "abq"},
		{[]string{"ä€😀\x1b[6~"}, "ä€😀\x1b[6~"},
		{[]string{"\xc3", "\xa4\xe2\x82", "\xac", "\xf0", "\x9f", "\x98", "\x80"}, "ä€😀"},
		{[]string{"\xf0\x9f", "q", "\x03"}, "q\x03"},
		{[]string{"\xef\xbf\xbd\xed\xa0\x80\xc0\x80"}, "\uFFFD"}, // the letter for what is no letter is one
		{[]string{"q", "\xe2\x82"}, "q"},
	} {
		got, err := io.ReadAll(&terminal{Tty: &pieces{all: c.typed}})
		if err != nil || string(got) != c.want {
			t.Errorf("%q is read as %q, %v, want %q", c.typed, got, err, c.want)
		}
	}
}
