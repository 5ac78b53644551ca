//go:build unix

package drivers

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lookAt says what a descriptor is, and its inode.
func lookAt(fd int) (fileKind, uint64) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return kindClosed, 0
	}
	switch mode := uint32(st.Mode) & unix.S_IFMT; mode {
	case unix.S_IFSOCK:
		return socketKind(fd), uint64(st.Ino)
	case unix.S_IFIFO:
		return kindPipe, uint64(st.Ino)
	case unix.S_IFREG:
		return kindRegular, uint64(st.Ino)
	case unix.S_IFDIR:
		return "a directory", 0
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device", 0
	default:
		return fileKind(fmt.Sprintf("a file of type %#o", mode)), 0
	}
}

// socketKind tells the one kind of socket that we pass, a Unix stream socket, from others.
func socketKind(fd int) fileKind {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return fileKind(fmt.Sprintf("a socket without a name (%v)", err))
	}
	if _, ok := name.(*unix.SockaddrUnix); !ok {
		return fileKind(fmt.Sprintf("a socket that is no Unix socket (%T)", name))
	}
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_STREAM {
		return fileKind(fmt.Sprintf("a Unix socket that is no stream socket (type %d)", kind))
	}
	return kindSocket
}

func closeOnExec(fd int) {
	if fd > 2 {
		syscall.CloseOnExec(fd)
	}
}

// hostAliveFile makes a file of the inherited host-alive pipe. Reading it takes no thread,
// unless the system has no room for it in Go's poller.
func hostAliveFile(fd int) *os.File {
	closeOnExec(fd)
	_ = syscall.SetNonblock(fd, true) // if it fails reading takes a thread
	f := os.NewFile(uintptr(fd), "host alive")
	if f.SetReadDeadline(time.Time{}) != nil { // it is not in the poller: a read would end at once
		_ = syscall.SetNonblock(fd, false)
	}
	return f
}
