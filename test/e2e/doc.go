// Package e2e tests vnetd as it is shipped: the programs in bin/, from outside,
// on the real kernel and with real guests.
package e2e
