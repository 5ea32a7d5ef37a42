package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/api"
)

// The exit codes are a contract with scripts.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitDenied   = 4
	exitConflict = 5
	exitWarnings = 6 // doctor alone
)

// exitError ends the program with a code and says no more: what there is to say
// has been printed.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// usageError is a command line that makes no sense.
type usageError struct{ message string }

// Error returns what is wrong and how it would be right.
func (e *usageError) Error() string { return e.message }

// newUsageError returns a usageError for cmd.
func newUsageError(cmd *cobra.Command, fault string) error {
	if cmd.HasSubCommands() {
		return &usageError{fmt.Sprintf("%s; see %q", fault, cmd.CommandPath()+" --help")}
	}
	return &usageError{fmt.Sprintf("%s; usage: %s", fault, cmd.UseLine())}
}

// fail prints err as one sentence and returns the exit code for it.
func fail(stderr io.Writer, err error) int {
	if said, ok := errors.AsType[*exitError](err); ok {
		return said.code
	}
	message := err.Error()
	if errors.Is(err, context.Canceled) {
		message = "interrupted"
	}
	// There is no other place to report an error of stderr.
	_, _ = fmt.Fprintf(stderr, "vnetctl: %s\n", oneLine(message))
	return exitCode(err)
}

// exitCode returns the exit code for err.
func exitCode(err error) int {
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, api.NotFound):
		return exitNotFound
	case errors.Is(err, api.Denied):
		return exitDenied
	case errors.Is(err, api.Conflict), errors.Is(err, api.Exists):
		return exitConflict
	}
	return exitFailed
}
