package uplink

// AfterStep has f called after each change that Attach and Detach
// make, which they then make one by one. nil ends that.
func (u *Uplinks) AfterStep(f func() error) { u.hook = f }
