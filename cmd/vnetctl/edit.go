package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

func editCommand(a *app) *cobra.Command {
	return a.command("edit NET", "Change a network's definition in an editor", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error { return edit(ctx, a, d, args[0]) })
}

// edit has the user change a definition until vnetd takes it or the user gives up.
// A text that is given up is kept in a file.
func edit(ctx context.Context, a *app, d *client.Client, network string) (err error) {
	before, err := d.Network(network).XML(ctx, true)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vnetctl-")
	if err != nil {
		return err
	}
	// Its name tells editors what it is.
	file := filepath.Join(dir, "network.xml")
	keep := false
	defer func() {
		if !keep {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
		return err
	}
	answers := bufio.NewReader(a.stdin)
	for {
		if err := openEditor(ctx, a, file); err != nil {
			return err
		}
		after, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if string(after) == before {
			_, err := fmt.Fprintf(a.stderr, "vnetctl: network %s is left as it is\n", network)
			return err
		}
		done, err := d.DefineNetwork(ctx, string(after), api.DefineOptions{})
		if err == nil {
			return edited(a, done)
		}
		again, asked := again(a, err, answers)
		if !again {
			keep = true
			return errors.Join(err, asked, fmt.Errorf("the text is kept in %s", file))
		}
	}
}

// edited tells the user what became of a network.
func edited(a *app, done api.Defined) error {
	text := fmt.Sprintf("vnetctl: network %s is changed\n", printable(done.Network.Name))
	for _, line := range done.Pending {
		text += fmt.Sprintf("vnetctl: pending, at its next start: %s\n", printable(line))
	}
	_, err := io.WriteString(a.stderr, text)
	return err
}

// again shows why the text was not taken and asks whether it is to be edited
// again. The end of the input is a no.
func again(a *app, fault error, answers *bufio.Reader) (bool, error) {
	if _, err := fmt.Fprintf(a.stderr, "vnetctl: %s\nEdit again? [Y/n] ", strings.Join(strings.Split(fault.Error(), "\n"), "\n  ")); err != nil {
		return false, err
	}
	answer, err := answers.ReadString('\n')
	if err != nil {
		return false, nil
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "" || answer == "y" || answer == "yes", nil
}

// openEditor runs the user's editor on a file: $VISUAL, $EDITOR or vi, which may
// have arguments, as the shell reads them.
func openEditor(ctx context.Context, a *app, file string) error {
	editor := cmp.Or(os.Getenv("VISUAL"), os.Getenv("EDITOR"), "vi")
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", editor+` "$1"`, "sh", file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, a.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running the editor %q: %w", editor, err)
	}
	return nil
}
