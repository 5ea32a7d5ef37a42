package packets

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/net/bpf"

	"github.com/vnetd/vnetd/pkg/api"
)

// Filter says which packets are wanted. The zero Filter wants all.
type Filter struct {
	kernel []bpf.RawInstruction // carried out where packets come
	here   *bpf.VM              // carried out on what was read, in place of kernel
}

// Wants reports whether a frame with its tag is wanted, of those that the kernel let pass.
func (f Filter) Wants(frame []byte) bool {
	if f.here == nil {
		return true
	}
	n, err := f.here.Run(frame)
	return err == nil && n > 0
}

// vlanWord is what in an expression asks for tags of VLANs, which frames have not any more
// where the kernel filters.
var vlanWord = regexp.MustCompile(`\bvlan\b`)

// Compile has tcpdump translate an expression of its language (pcap-filter(7)) for frames
// of Ethernet. It opens no device for that.
func Compile(ctx context.Context, expression string) (f Filter, err error) {
	if strings.TrimSpace(expression) == "" {
		return f, nil
	}
	out, err := exec.CommandContext(ctx, "tcpdump", "-ddd", "-y", "EN10MB", "--", expression).Output()
	var failed *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return f, api.Errorf(api.Unsupported, "a filter takes tcpdump, which is not installed: apt install tcpdump, or capture without one and filter in wireshark")
	case errors.As(err, &failed):
		return f, api.Errorf(api.Invalid, "filter %q: %s; see pcap-filter(7)", expression, reason(failed.Stderr))
	case err != nil:
		return f, fmt.Errorf("starting tcpdump: %w", err)
	}
	program, err := parseProgram(string(out))
	if err != nil {
		return f, err
	}
	if !vlanWord.MatchString(expression) {
		return Filter{kernel: program}, nil
	}
	instructions, _ := bpf.Disassemble(program)
	f.here, err = bpf.NewVM(instructions)
	return f, err
}

// reason is the last line of what tcpdump says, without its name.
func reason(stderr []byte) string {
	lines := strings.Split(strings.TrimSpace(string(stderr)), "\n")
	return strings.TrimPrefix(lines[len(lines)-1], "tcpdump: ")
}

// maxInstructions is how long a filter the kernel takes (BPF_MAXINSNS).
const maxInstructions = 4096

// parseProgram reads tcpdump -ddd: the number of instructions, then each as four decimal
// numbers.
func parseProgram(text string) ([]bpf.RawInstruction, error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	count, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || count != len(lines)-1 || count < 1 || count > maxInstructions {
		return nil, fmt.Errorf("tcpdump -ddd printed %d lines and %q for their number", len(lines)-1, lines[0])
	}
	program := make([]bpf.RawInstruction, count)
	for i, line := range lines[1:] {
		in := &program[i]
		if _, err := fmt.Sscan(line, &in.Op, &in.Jt, &in.Jf, &in.K); err != nil {
			return nil, fmt.Errorf("tcpdump -ddd, line %q: %w", line, err)
		}
	}
	return program, nil
}
