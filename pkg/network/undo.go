package network

import "errors"

// undo is what has to be done, last first, to take back the steps of a bring-up
// that failed half way.
type undo []func() error

// add puts a step on the stack.
func (u *undo) add(step func() error) { *u = append(*u, step) }

// run takes everything back, goes on when a step fails, and joins the failures.
func (u *undo) run() error {
	var errs []error
	for i := len(*u) - 1; i >= 0; i-- {
		errs = append(errs, (*u)[i]())
	}
	*u = nil
	return errors.Join(errs...)
}
