package main

import (
	"errors"
	"testing"
)

// TestLives has one who was killed take its time to go.
func TestLives(t *testing.T) {
	done, asked := make(chan struct{}), 0
	refuse := func() error {
		if asked++; asked == 100 { // two seconds
			close(done)
		}
		return errors.New("nobody answers")
	}
	if lives(done, refuse) {
		t.Error("one who is done lives")
	}
	if lives(done, func() error { return nil }) {
		t.Error("one who is done, and answered just before, lives")
	}
	if lives(done, func() error { select {} }) {
		t.Error("one who is done, and has not answered, lives")
	}
	again := 0
	if !lives(nil, func() error {
		if again++; again < 3 {
			return errors.New("it does not answer yet")
		}
		return nil
	}) {
		t.Error("one who answers does not live")
	}
}
