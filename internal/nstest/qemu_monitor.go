package nstest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// Monitor is that of a QEMU, by QMP. It is for one goroutine.
type Monitor struct {
	net.Conn
	in     *json.Decoder
	events map[string]time.Time
}

// DialMonitor reaches the monitor of a QEMU by its socket.
func DialMonitor(ctx context.Context, socket string) (*Monitor, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("the monitor of QEMU: %w", err)
	}
	if end, limited := ctx.Deadline(); limited {
		err = conn.SetDeadline(end)
	}
	m := &Monitor{Conn: conn, in: json.NewDecoder(conn), events: make(map[string]time.Time)}
	if err == nil {
		err = m.in.Decode(new(json.RawMessage)) // its greeting
	}
	if err == nil {
		err = m.Execute("qmp_capabilities", nil, nil)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return m, nil
}

// message is what QEMU says: an event, or an answer.
type message struct {
	Event     string
	Timestamp struct{ Seconds, Microseconds int64 }
	Return    json.RawMessage
	Error     *struct{ Desc string }
}

// next reads a message, and keeps when an event was.
func (m *Monitor) next() (is message, err error) {
	if err = m.in.Decode(&is); err == nil && is.Event != "" {
		m.events[is.Event] = time.Unix(is.Timestamp.Seconds, 1000*is.Timestamp.Microseconds)
	}
	return is, err
}

// Execute has QEMU do something. What that returns goes to into, nil for nowhere.
func (m *Monitor) Execute(command string, arguments, into any) error {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := json.NewEncoder(m).Encode(request); err != nil {
		return err
	}
	for {
		switch is, err := m.next(); {
		case err != nil:
			return fmt.Errorf("%s: %w", command, err)
		case is.Event != "":
		case is.Error != nil:
			return fmt.Errorf("%s: %s", command, is.Error.Desc)
		case into == nil:
			return nil
		default:
			return json.Unmarshal(is.Return, into)
		}
	}
}

// Await waits for an event since the connection was made, and returns when it last was, by the
// clock of this machine.
func (m *Monitor) Await(event string) (time.Time, error) {
	for m.events[event].IsZero() {
		if _, err := m.next(); err != nil {
			return time.Time{}, fmt.Errorf("waiting for %s: %w", event, err)
		}
	}
	return m.events[event], nil
}

// Migration is what became of a guest's move to another QEMU.
type Migration struct {
	Total time.Duration // from the beginning
	Pause time.Duration // while which the guest ran on neither
	Runs  time.Time     // since when it runs there
}

// awaitState has QEMU answer a question until the answer is one of some states.
func (m *Monitor) awaitState(ctx context.Context, question string, into any, state func() string, want ...string) (string, error) {
	for {
		if err := m.Execute(question, nil, into); err != nil {
			return "", err
		}
		is := state()
		for _, w := range want {
			if is == w {
				return is, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%w: %s says %q, want one of %q", ctx.Err(), question, is, want)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Migrate moves the guest to another QEMU, which was started with -incoming and uri, and waits until
// it runs there.
func (m *Monitor) Migrate(ctx context.Context, to *Monitor, uri string) (Migration, error) {
	var begins struct{ Status string }
	if _, err := to.awaitState(ctx, "query-status", &begins, func() string { return begins.Status }, "inmigrate"); err != nil {
		return Migration{}, err
	}
	if err := m.Execute("migrate", map[string]any{"uri": uri}, nil); err != nil {
		return Migration{}, err
	}
	var is struct {
		Status string
		Error  string  `json:"error-desc"`
		Total  float64 `json:"total-time"` // in ms
	}
	status, err := m.awaitState(ctx, "query-migrate", &is, func() string { return is.Status }, "completed", "failed")
	if err == nil && status == "failed" {
		err = fmt.Errorf("QEMU does not move the guest: %s", is.Error)
	}
	if err != nil {
		return Migration{}, err
	}
	stood, err := m.Await("STOP")
	if err != nil {
		return Migration{}, err
	}
	runs, err := to.Await("RESUME")
	if err != nil {
		return Migration{}, err
	}
	return Migration{time.Duration(is.Total * float64(time.Millisecond)), runs.Sub(stood), runs}, nil
}
