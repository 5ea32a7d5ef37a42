// Shape prints the figures of the project's structure: for each package its
// files, lines and floors, and its type with most methods; and in how many files
// the attribute "isolated" of a port stands. Its argument is a checkout, this one
// without.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"text/tabwriter"

	"github.com/vnetd/vnetd/internal/house"
)

func main() {
	dir := "."
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	if err := run(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dir string) error {
	shapes, err := house.Measure(dir)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "package\tfiles\tlines\tfloors\tmost methods")
	lines := 0
	for _, s := range shapes {
		most := ""
		if s.Methods > 0 {
			most = fmt.Sprintf("%d %s", s.Methods, s.Type)
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\n", s.Path, s.Files, s.Lines, s.Floors, most)
		if !strings.HasPrefix(s.Path, "test/") {
			lines += s.Lines
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	cmd := exec.Command("git", "grep", "-liE", "isolated", "--", "pkg/*.go", "cmd/*.go", ":!*_test.go")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("looking for an attribute: %w", err)
	}
	fmt.Printf("lines without tests: %d\nfiles that name a port's attribute \"isolated\": %d\n", lines, strings.Count(string(out), "\n"))
	return nil
}
