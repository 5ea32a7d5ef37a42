package wire

import (
	"bytes"
	"encoding/binary"

	"github.com/miekg/dns"
)

// UpstreamQuery packs what an upstream server is asked for q, with an id that is
// still to be set: the question alone, and an OPT record of our own if the
// client knows EDNS. No option of a guest leaves the host.
func UpstreamQuery(q *Query) []byte {
	var bits uint16
	if q.rd {
		bits |= bitRD
	}
	if q.cd {
		bits |= bitCD
	}
	b := make([]byte, HeaderSize, HeaderSize+len(q.question)+optSize)
	binary.BigEndian.PutUint16(b[2:], bits)
	b[countQuestion+1] = 1
	b = append(b, q.question...)
	if q.edns {
		b[Additional+1] = 1
		b = q.appendOPT(b, 0)
	}
	return b
}

// MixCase gives the letters of query's name a random case, which an answer has
// to repeat and one who guesses does not know (draft-vixie-dnsext-dns0x20).
// random must have a bit for each octet of the name.
func MixCase(query, random []byte) {
	name := query[HeaderSize : questionEnd(query)-4]
	for i := 0; name[i] != 0; i += int(name[i]) + 1 {
		for j := i + 1; j <= i+int(name[i]); j++ {
			if c := foldOctet(name[j]); c >= 'a' && c <= 'z' {
				name[j] = c ^ random[j/8]>>(j%8)&1<<5
			}
		}
	}
}

// RepeatsCase reports whether msg, which answers query, has its question in the
// same case, or no question.
func RepeatsCase(msg, query []byte) bool {
	end := questionEnd(query)
	return !hasQuestion(msg) || bytes.Equal(msg[HeaderSize:end], query[HeaderSize:end])
}

// ReadAnswer returns the part of msg that answers query, nil if it does not: the
// header of a failure without its question, or a message whose records are all
// in their place. The records of a truncated message don't matter.
func ReadAnswer(msg, query []byte) []byte {
	if !matches(msg, query) {
		return nil
	}
	if !hasQuestion(msg) {
		return msg[:HeaderSize]
	}
	if !IsTruncated(msg) && !isWhole(msg) {
		return nil
	}
	return msg
}

// matches reports whether msg is a response to query: whether it has its id, and
// its question but for the case of letters (RFC 5452 section 9.1). A failure may
// come without the question.
func matches(msg, query []byte) bool {
	if len(msg) < HeaderSize || msg[0] != query[0] || msg[1] != query[1] {
		return false
	}
	bits := binary.BigEndian.Uint16(msg[2:])
	if bits&bitQR == 0 || bits>>11&0xf != dns.OpcodeQuery {
		return false
	}
	if !hasQuestion(msg) {
		return IsFailure(msg)
	}
	end := questionEnd(query)
	return binary.BigEndian.Uint16(msg[countQuestion:]) == 1 && len(msg) >= end &&
		equalFold(msg[HeaderSize:end], query[HeaderSize:end])
}
