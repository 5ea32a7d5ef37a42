package index

import (
	"encoding/binary"
	"strings"
)

// Texts keeps texts one behind the other, so that those of many leases take little more memory than
// they have bytes, and the collector finds no pointers in them.
type Texts struct {
	boards []*strings.Builder // of boardSize bytes at most, filled one after the other
	n      int                // how many were kept
}

// Place is where a text stands: the number of its board, and how far from the board's begin. 0 is
// that of the empty text.
type Place uint32

const (
	boardBits = 16
	boardSize = 1 << boardBits
)

// Keep keeps a text, of less than boardSize bytes, and returns its place. That is the one of a
// former text where both are the same.
func (t *Texts) Keep(text []byte, former Place) Place {
	switch {
	case len(text) == 0:
		return 0
	case t.At(former) == string(text):
		return former
	}
	var room [binary.MaxVarintLen32]byte
	size := binary.AppendUvarint(room[:0], uint64(len(text)))
	last := len(t.boards) - 1
	if last < 0 || t.boards[last].Len()+len(size)+len(text) > boardSize {
		board := new(strings.Builder)
		if last >= 0 { // where there are few texts it grows
			board.Grow(boardSize)
		}
		board.WriteByte(0) // no text stands at 0
		t.boards, last = append(t.boards, board), last+1
	}
	board := t.boards[last]
	at := Place(last<<boardBits | board.Len())
	board.Write(size)
	board.Write(text)
	t.n++
	return at
}

// Len is how many were kept.
func (t *Texts) Len() int { return t.n }

// At is the text at a place. It stays what it is.
func (t *Texts) At(p Place) string {
	if p == 0 {
		return ""
	}
	text, _ := cutPart(t.boards[p>>boardBits].String()[p&(boardSize-1):])
	return text
}

// AppendPart appends a part of a text, behind its length.
func AppendPart[T ~[]byte | ~string](text []byte, part T) []byte {
	return append(binary.AppendUvarint(text, uint64(len(part))), part...)
}

// cutPart returns the part that a text begins with, and what follows it.
func cutPart(text string) (part, rest string) {
	size, at := 0, 0
	for shift := 0; ; shift += 7 { // as binary.Uvarint reads it
		c := text[at]
		size |= int(c&0x7f) << shift
		if at++; c < 0x80 {
			break
		}
	}
	return text[at : at+size], text[at+size:]
}

// Part is one of the parts of a text, empty where there is none.
func Part(text string, n int) (part string) {
	for ; n >= 0 && text != ""; n-- {
		part, text = cutPart(text)
	}
	if n >= 0 {
		return ""
	}
	return part
}
