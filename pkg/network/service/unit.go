package service

import (
	"context"
	"errors"
	"os"
)

// part is one service of a set, whatever server it has. The caller holds Set.mu for
// current and for what start returns.
type part interface {
	name() string
	// optional reports whether a network can start without it.
	optional() bool
	// wanted reports whether a network that serves that has it.
	wanted(s *Spec) bool
	// start opens a server, on what a former vnetd has left where that fits. keep
	// makes it the part's.
	start(s *Spec, left []*os.File) (srv runner, keep func(), err error)
	// reconfigure has the open server serve s from now on.
	reconfigure(s *Spec) error
	// current is the open server, or the one that failed last; nil for none.
	current() runner
}

// runner is what all servers have in common: Run serves until ctx ends or
// something fails.
type runner interface {
	Run(ctx context.Context) error
	Close() error
}

// errChanged says that a service must be opened anew.
var errChanged = errors.New("its settings have changed")

// unit is the part that a server of type S with settings of type C makes.
type unit[C any, S interface {
	comparable
	runner
}] struct {
	label  string
	spared bool
	config func(*Spec) *C
	open   func(cfg C, left []*os.File) (S, error)
	change func(srv S, is, want C) error

	srv S // the zero S for none
	is  C // the settings of srv
}

func (u *unit[C, S]) name() string        { return u.label }
func (u *unit[C, S]) optional() bool      { return u.spared }
func (u *unit[C, S]) wanted(s *Spec) bool { return u.config(s) != nil }

func (u *unit[C, S]) start(s *Spec, left []*os.File) (runner, func(), error) {
	cfg := *u.config(s)
	srv, err := u.open(cfg, left)
	if err != nil {
		return nil, nil, err
	}
	return srv, func() { u.srv, u.is = srv, cfg }, nil
}

func (u *unit[C, S]) reconfigure(s *Spec) error {
	want := *u.config(s)
	if err := u.change(u.srv, u.is, want); err != nil {
		return err
	}
	u.is = want
	return nil
}

func (u *unit[C, S]) current() runner {
	var none S
	if u.srv == none {
		return nil
	}
	return u.srv
}
