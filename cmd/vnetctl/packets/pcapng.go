package packets

import (
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"time"
)

// The blocks and options of pcapng that are written (draft-ietf-opsawg-pcapng).
const (
	blockSection   = 0x0A0D0D0A
	blockInterface = 1
	blockNames     = 4
	blockPacket    = 6

	optionEnd         = 0
	optionComment     = 1
	optionApplication = 4  // of a section
	optionName        = 2  // of an interface
	optionDescription = 3  // of an interface
	optionResolution  = 9  // of an interface
	optionFilter      = 11 // of an interface
	optionFlags       = 2  // of a packet

	byteOrder    = 0x1A2B3C4D
	linkEthernet = 1 // LINKTYPE_ETHERNET
	nanoseconds  = 9 // 10^-9 s
)

// Device is a link that packets are of.
type Device struct {
	Name        string // of the link
	Description string // whose it is, for a person
}

// Name is what an address is called.
type Name struct {
	Addr netip.Addr
	Name string
}

// File writes pcapng.
type File struct {
	w       io.Writer
	block   []byte
	Written int64 // bytes
}

// NewFile begins a file: what wrote it, a comment, the links, what is filtered, and the
// names of addresses, each address once.
func NewFile(w io.Writer, application, comment, filter string, devices []Device, names []Name) (*File, error) {
	f := &File{w: w}
	f.begin(blockSection)
	f.numbers32(byteOrder)
	f.numbers16(1, 0)                      // version
	f.numbers32(0xffffffff, 0xffffffff)    // length unknown
	f.text(optionComment, comment)         // before others, as wireshark has it
	f.text(optionApplication, application) // shb_userappl
	if err := f.end(); err != nil {
		return nil, err
	}
	for _, d := range devices {
		f.begin(blockInterface)
		f.numbers16(linkEthernet, 0)
		f.numbers32(maxFrame)
		f.text(optionComment, d.Description)
		f.text(optionName, d.Name)
		f.text(optionDescription, d.Description)
		f.option(optionResolution, []byte{nanoseconds})
		if filter != "" {
			f.option(optionFilter, append([]byte{0}, filter...)) // 0: a text
		}
		if err := f.end(); err != nil {
			return nil, err
		}
	}
	return f, f.names(names)
}

// names writes the block of names.
func (f *File) names(names []Name) error {
	if len(names) == 0 {
		return nil
	}
	f.begin(blockNames)
	for _, n := range names {
		kind := uint16(1) // nrb_record_ipv4
		if n.Addr.Is6() {
			kind = 2
		}
		f.option(kind, slices.Concat(n.Addr.AsSlice(), []byte(n.Name), []byte{0}))
	}
	f.numbers32(0) // nrb_record_end
	return f.end()
}

// Packet writes a packet of the link at p.Link.
func (f *File) Packet(p Packet) error {
	f.begin(blockPacket)
	at := uint64(p.At.UnixNano())
	f.numbers32(uint32(p.Link), uint32(at>>32), uint32(at), uint32(len(p.Data)), uint32(len(p.Data)))
	f.padded(p.Data)
	direction := uint32(1) // inbound
	if p.Outgoing {
		direction = 2
	}
	f.option(optionFlags, binary.NativeEndian.AppendUint32(nil, direction))
	return f.end()
}

// Size is how many bytes a packet of n bytes takes in the file.
func Size(n int) int64 { return int64((n+3)&^3) + 12 + 20 + 8 + 4 }

// begin starts a block, whose length end writes.
func (f *File) begin(kind uint32) {
	f.block = f.block[:0]
	f.numbers32(kind, 0)
}

// end closes the options of a block, and writes it.
func (f *File) end() error {
	f.numbers32(optionEnd)
	size := uint32(len(f.block) + 4)
	f.numbers32(size)
	binary.NativeEndian.PutUint32(f.block[4:], size)
	n, err := f.w.Write(f.block)
	f.Written += int64(n)
	return err
}

func (f *File) numbers32(all ...uint32) {
	for _, n := range all {
		f.block = binary.NativeEndian.AppendUint32(f.block, n)
	}
}

func (f *File) numbers16(all ...uint16) {
	for _, n := range all {
		f.block = binary.NativeEndian.AppendUint16(f.block, n)
	}
}

// padded appends bytes up to a border of 32 bits.
func (f *File) padded(b []byte) {
	f.block = append(f.block, b...)
	f.block = append(f.block, make([]byte, -len(b)&3)...)
}

// option appends an option, of 65535 bytes at most.
func (f *File) option(kind uint16, value []byte) {
	value = value[:min(len(value), 1<<16-1)]
	f.numbers16(kind, uint16(len(value)))
	f.padded(value)
}

// text appends an option with a text, unless it is empty.
func (f *File) text(kind uint16, s string) {
	if s != "" {
		f.option(kind, []byte(s))
	}
}

// Bounds end a capture: whichever is met first. None is without limit.
type Bounds struct {
	Time  time.Duration
	Count int   // packets
	Size  int64 // bytes of the file
}
