package dnsmasq

import "strings"

// metas are the characters that mean themselves between double quotes, where each
// is hidden as its place in this string. Those that are their own place stay as
// they are. It is dnsmasq's table, so that what is quoted is guessed as it guesses.
const metas = "\x00123456 \b\t\n78\r90abcdefABCDE\x1bF:,."

// hide returns c as it stands inside of quotes.
func hide(c byte) byte {
	if i := strings.IndexByte(metas, c); i >= 0 {
		return byte(i)
	}
	return c
}

// shown returns s with what is hidden as it was written.
func shown(s string) string {
	b := []byte(s)
	for i, c := range b {
		if int(c) < len(metas) {
			b[i] = metas[c]
		}
	}
	return string(b)
}

// unquote reads the quotes, escapes and comments of a line: what is quoted is
// hidden, a blank or its like is a blank. It reports whether all quotes are closed.
func unquote(line string) (string, bool) {
	escapes := map[byte]byte{'"': '"', '\\': '\\', 't': '\t', 'n': '\n', 'b': '\b', 'r': '\r', 'e': '\x1b'}
	var b strings.Builder
	quoted, blank := false, true
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '"':
			quoted = !quoted
			blank = false
		case quoted && c == '\\' && i+1 < len(line) && escapes[line[i+1]] != 0:
			i++
			b.WriteByte(hide(escapes[line[i]]))
		case quoted:
			b.WriteByte(hide(c))
		case c == '\n' || c == 0:
			return "", false // the end of the line in a file
		case strings.IndexByte(" \t\v\f\r", c) >= 0:
			b.WriteByte(' ')
			blank = true
		case c == '#' && blank:
			return b.String(), true
		case c < ' ':
			return "", false // it would be taken for something quoted
		default:
			b.WriteByte(c)
			blank = false
		}
	}
	return b.String(), !quoted
}

// cutField returns s before its first comma and after it, without the blanks around
// that, and whether there is one.
func cutField(s string) (field, rest string, more bool) {
	field, rest, more = strings.Cut(s, ",")
	return strings.TrimRight(field, " "), strings.TrimLeft(rest, " "), more
}

// fieldsOf returns all fields of s.
func fieldsOf(s string) []string {
	var all []string
	for more := true; more; {
		var f string
		f, s, more = cutField(s)
		all = append(all, f)
	}
	return all
}
