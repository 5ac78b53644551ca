//go:build unix && !linux

package worker

import "syscall"

// endGroup tells the other processes of the group that this one leads to end, as it
// is about to end itself. SIGTERM has to be handled here.
func endGroup(hostGone <-chan struct{}) {
	if hostGone != nil && leadsGroup() {
		_ = syscall.Kill(ownGroup, syscall.SIGTERM)
	}
}
