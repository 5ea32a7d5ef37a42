// Package tap owns TAP devices: their creation, their queues, and the file
// descriptors through which a virtual machine sends and receives frames.
package tap
