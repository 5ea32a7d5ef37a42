// Demo shows on a terminal what vnetd does, as it happens, in namespaces of its
// own: the machine on which it runs is not touched. With "span" it does so with a
// network that spans three hosts. It exits with 0 only if all that it tells was
// observed.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/demo/span"
	"github.com/vnetd/vnetd/test/story"
)

// stepLimit ends a step that would hang.
const stepLimit = 2 * time.Minute

func main() { os.Exit(nstest.Alone(run)) }

// run tells the whole story and returns the exit code.
func run(ctx context.Context) int {
	p := newPrinter(os.Stdout)
	begin := time.Now()
	err := nstest.Play(ctx, os.Stderr, func(t nstest.TB) {
		for _, step := range steps(t) {
			if err := p.tell(t.Context(), step); err != nil {
				t.Fatalf("%s: %w", step.Title, err)
			}
		}
	})
	if err != nil {
		p.failed(err)
		return 1
	}
	p.ended(time.Since(begin))
	return 0
}

// steps are those of the story that the command line names.
func steps(t nstest.TB) []story.Step {
	switch args := os.Args[1:]; {
	case len(args) == 0:
		return story.New(t).Steps()
	case len(args) == 1 && args[0] == "span":
		return span.New(t).Steps()
	default:
		t.Fatalf("there are no stories %q, want none for one host, or span", args)
		return nil
	}
}

// tell does a step and prints it while it happens.
func (p *printer) tell(ctx context.Context, step story.Step) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	p.heading(step.Title)
	begin := time.Now()
	if err := step.Do(ctx, p.line); err != nil {
		return err
	}
	p.tick(time.Since(begin))
	return nil
}

// printer writes to a terminal, or plainly to anything else.
type printer struct {
	out    *os.File
	colour bool
}

func newPrinter(out *os.File) *printer {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &printer{out: out, colour: terminal && os.Getenv("NO_COLOR") == ""}
}

// ANSI attributes.
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
)

func (p *printer) paint(attribute, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + attribute + "m" + text + "\x1b[0m"
}

func (p *printer) heading(title string) { p.print("\n%s\n", p.paint(bold, title)) }

func (p *printer) line(format string, args ...any) { p.print("  "+format+"\n", args...) }

func (p *printer) tick(took time.Duration) {
	p.print("  %s %s\n", p.paint(green, "✓"), p.paint(dim, took.Round(time.Millisecond).String()))
}

func (p *printer) failed(err error) { p.print("  %s %v\n", p.paint(red, "✗"), err) }

func (p *printer) ended(took time.Duration) {
	p.print("\n%s in %v\n", p.paint(green, "All of it was observed"), took.Round(100*time.Millisecond))
}

func (p *printer) print(format string, args ...any) { _, _ = fmt.Fprintf(p.out, format, args...) }
