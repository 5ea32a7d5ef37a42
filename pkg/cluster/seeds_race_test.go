//go:build race

package cluster_test

// seedsOfTest is how many seeds TestSimulation has where the race detector slows it down;
// `make test` runs it without as well.
const seedsOfTest = 300
