//go:build !race

package cluster_test

// seedsOfTest is how many seeds TestSimulation has.
const seedsOfTest = 10_000
