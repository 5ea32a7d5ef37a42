package bridge

// AfterStep has f called after each change that AttachUplink and DetachUplink
// make, which they then make one by one. nil ends that.
func (b *Bridges) AfterStep(f func() error) { b.afterStep = f }
