package worker

import (
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// groupGrace is how long the other processes of a worker's group may take to end
// after SIGTERM. With what handlers get it is within orphanGrace.
const groupGrace = 300 * time.Millisecond

// endGroup ends the other processes of the group that this one leads, as it is about
// to end itself, and nobody could afterwards: by SIGTERM, and by SIGKILL if the host
// is gone by the time when they should have ended. SIGTERM has to be handled here.
func endGroup(hostGone <-chan struct{}) {
	if hostGone == nil || !leadsGroup() {
		return
	}
	others, known := groupMembers()
	if known && len(others) == 0 {
		return
	}
	defer func() {
		for _, p := range others {
			unix.Close(int(p.Fd))
		}
	}()
	_ = unix.Kill(ownGroup, unix.SIGTERM)
	left := alive(others)
	for end := time.Now().Add(groupGrace); len(left) > 0 && time.Now().Before(end); left = alive(left) {
		// One of them: with the rest the loop deals.
		_, _ = unix.Poll(left[:1], int(time.Until(end).Milliseconds())+1)
	}
	select {
	case <-hostGone:
		for _, p := range left {
			_ = unix.PidfdSendSignal(int(p.Fd), unix.SIGKILL, nil, 0)
		}
	default: // it was only us who were told to end
	}
}

// groupMembers returns a pidfd for each other process of the group that this one
// leads, to be closed by the caller. They are not known if /proc is that of another pid
// namespace: ids there are not those that we could signal.
func groupMembers() (members []unix.PollFd, known bool) {
	self := os.Getpid()
	if seen, err := os.Readlink("/proc/self"); err != nil || seen != strconv.Itoa(self) {
		return nil, false
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == self || !inGroup(pid, self) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if !inGroup(pid, self) { // the id was another's by then
			unix.Close(fd)
			continue
		}
		members = append(members, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	return members, true
}

func inGroup(pid, group int) bool {
	g, err := unix.Getpgid(pid)
	return err == nil && g == group
}

// alive returns those that have not ended.
func alive(processes []unix.PollFd) []unix.PollFd {
	if _, err := unix.Poll(processes, 0); err != nil {
		return processes
	}
	var left []unix.PollFd
	for _, p := range processes {
		if p.Revents&unix.POLLIN == 0 {
			left = append(left, p)
		}
	}
	return left
}
