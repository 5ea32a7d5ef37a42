package cluster

import (
	"errors"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// patience is how long a transaction that lost a race waits for news of what it lost to,
// before all is listed anew.
const patience = 2 * time.Second

// contest is the transaction that lost a race last.
type contest struct {
	at    int64 // revision up to which was seen then
	until time.Time
}

// errContest has all listed anew.
var errContest = errors.New("a transaction that should hold does not: what is known of the store is listed again")

// Next returns what is to be asked of the store now, nil for nothing. Done has to be told
// what became of it, or Lost. It looks at so much at a time, and wakes who calls it for the rest.
func (m *Follower) Next(now time.Time) *Request {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase == Away || m.busy != nil || m.view.revision < m.settle {
		return nil
	}
	if m.contest.at == m.view.revision && m.contest.at != 0 {
		if now.After(m.contest.until) {
			m.away(errContest, now)
		}
		return nil
	}
	r := &Request{at: m.view.revision}
	for _, plan := range m.plans() {
		if plan(r, now); len(r.Txn.Then) > 0 || r.wait {
			break
		}
	}
	ring(m.news) // plans decide what becomes of ports and leases
	if len(r.Txn.Then) == 0 {
		if r.more {
			ring(m.wakes)
		}
		return nil
	}
	r.Txn.If = append(r.Txn.If, Compare{Key: m.key(record.KindMember), Mod: m.fence})
	m.busy, r.Keep = r, r.keeps(m.cfg.Cluster)
	m.doubts(r.Txn.Then)
	return r
}

// plans are what may be to be asked of the store, in order of importance.
func (m *Follower) plans() []func(*Request, time.Time) {
	if m.phase == Joining && m.restoring {
		return []func(*Request, time.Time){m.planRestore, m.planRestoredLeases, m.planPorts, m.planNames, m.planMember}
	}
	if m.phase == Joining {
		return []func(*Request, time.Time){m.planRestore, m.planRestoredLeases, m.planMember}
	}
	return []func(*Request, time.Time){m.planMember, m.planAlive, m.planPorts, m.planBlocks, m.planRights, m.planNames, m.planLeases}
}

// Done takes in what became of a request. It returns false if a list is needed: an error
// leaves open what the request did, or may still do.
func (m *Follower) Done(r *Request, res Result, err error, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy != r {
		return true // of a time that is over
	}
	m.busy = nil
	switch {
	case err != nil:
		m.away(err, now)
		return false
	case !res.OK:
		m.contest = contest{at: r.at, until: now.Add(patience)}
		m.settled()
		return true
	}
	m.settle, m.contest = res.Revision, contest{}
	m.settled()
	return true
}

// settled ends all doubt once nothing is under way and all that was done has been seen.
// While this host joins, what an earlier connection or process asked for may still happen.
func (m *Follower) settled() {
	if m.phase == Joined && m.busy == nil && m.view.revision >= m.settle {
		m.doubt = doubt{}
	}
}

// planMember writes what this host is.
func (m *Follower) planMember(r *Request, _ time.Time) {
	want := record.Member{Underlay: m.cfg.Underlay, MTU: m.cfg.MTU, Version: m.cfg.Version, Boot: m.cfg.Boot}
	if m.view.meta != nil {
		want.Epoch = m.view.meta.Epoch
	}
	have := m.view.members[m.cfg.Host].v
	want.Head = have.Head
	same := have.Underlay == want.Underlay && have.MTU == want.MTU && have.Version == want.Version && have.Boot == want.Boot && have.Epoch == want.Epoch
	if m.phase == Joining || !same {
		r.add(Op{Key: m.key(record.KindMember), Value: record.Encode(&want)})
	}
}

// planAlive puts the key that goes with the session.
func (m *Follower) planAlive(r *Request, _ time.Time) {
	_, there := m.view.alive[m.cfg.Host]
	if m.session == 0 || there && m.sessionPut == m.session {
		return
	}
	if r.add(Op{Key: m.key(record.KindAlive), Value: record.Encode(&record.Alive{Boot: m.cfg.Boot}), Lease: m.session}) {
		m.sessionPut = m.session
	}
}
