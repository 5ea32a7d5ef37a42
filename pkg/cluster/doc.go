// Package cluster lets networks span hosts: what a host tells the others, and knows of
// them, through a store that all of them reach.
//
// Store is what is asked of such a store; package etcd has it, and clustertest one in
// memory. Member is one host: it is told what is so on this host, what the store has and
// what became of its requests, and says what to ask of the store next and what the kernel,
// DHCP and DNS shall have. It waits for nothing and starts nothing, so that a test can have
// it see events in any order. Run moves it.
//
// # Order
//
// A Member knows the store by one list and the watch that follows it, and from nothing
// else. It has one transaction under way at a time, and the next begins once the watch has
// told of the last. So what it sees is what was true at one revision, its own writes
// included. Each transaction holds only if the host's key "member" is as it was when the
// host joined: joining writes that key anew, and with it whatever an earlier connection or
// process still has under way fails.
//
// # Addresses
//
// An address is given to one card at a time. A host gives those of its own blocks without
// asking anybody, and tells the others afterwards. Another host takes a lease on only by a
// transaction that compares the record it found. So an address of which there is a record,
// by whomever, belongs to the card that the record names until the record is gone, and a
// record goes only by who wrote it, once the lease has ended by that host's clock: nobody goes
// by the clock of another. What the store says about the data path never expires by itself.
//
// A reserved address is given by the host that has the Right to it, a key that who makes it
// first has; it is made only where the block that has the address says that it is without it.
package cluster
