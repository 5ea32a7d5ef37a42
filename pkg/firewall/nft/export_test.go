package nft

import "time"

// Recount has the counters read anew.
func Recount(g *Guards) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.tables {
		t.tally.read = time.Time{}
	}
}

// Tend does what Watch does every few seconds.
func Tend(g *Guards) { g.tend() }
