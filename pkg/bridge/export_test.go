package bridge

// SetSysctlDir has Forward persist its sysctls in a file of dir instead of
// DefaultSysctlDir. Empty: nowhere.
func (b *Bridges) SetSysctlDir(dir string) { b.sysctlDir = dir }
