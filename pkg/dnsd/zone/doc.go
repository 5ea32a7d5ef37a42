// Package zone is what one network knows of names and addresses by itself.
//
// A Zone has static names and records (Config, config.go) and those of guests,
// which come and go (dynamic.go). It keeps records as they are on the wire
// (records.go). Whoever answers a query takes the View (zone.go), without a lock,
// and has it say what the name has, that it does not exist, or that it is not for
// this zone to say (lookup.go).
package zone
