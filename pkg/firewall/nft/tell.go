package nft

import (
	"log/slog"
	"time"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// tellPace is how often the log tells of one kind of one port.
const tellPace = time.Minute

// teller tells the log what was stopped, each kind of each port once in a while. It
// is for one goroutine.
type teller struct {
	log  *slog.Logger
	told map[stop]telling
}

// stop is one kind of one port.
type stop struct {
	index int
	kind  firewall.GuardKind
}

// telling is what was told, and when.
type telling struct {
	frames uint64
	at     time.Time
}

func newTeller(log *slog.Logger) *teller { return &teller{log: log, told: make(map[stop]telling)} }

// tell tells of what is new.
func (t *teller) tell(names map[int]string, stopped map[int]firewall.Stopped) {
	now := time.Now()
	for key := range t.told {
		if _, there := names[key.index]; !there {
			delete(t.told, key)
		}
	}
	for index, kinds := range stopped {
		for kind, frames := range kinds {
			key := stop{index, kind}
			was := t.told[key]
			if frames <= was.frames || now.Sub(was.at) < tellPace {
				continue
			}
			t.told[key] = telling{frames, now}
			t.log.Warn("frames of a port were stopped", "ifname", names[index], "kind", kind.String(), "frames", frames-was.frames)
		}
	}
}
