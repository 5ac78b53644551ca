package main

import (
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// The descriptors that the worker of the limits inherits.
const (
	memoryFile = 3 + iota
	unixFile
	pipeIn
	pipeOut
)

// limitFiles are one side's ends of everything that limits are measured on.
type limitFiles struct {
	memory  []byte
	socket  io.ReadWriteCloser
	in, out *os.File
}

const (
	// limitMemory is for words; payloads, one each way, are behind it.
	limitMemory = 64 << 10
	// lineA and lineB are so far apart that no prefetcher takes them for one.
	lineA, lineB = 0, 1024
	stopWord     = ^uint64(0)
	limitMessage = 64
)

func (l *limitFiles) close() {
	if l.memory != nil {
		_ = unix.Munmap(l.memory)
	}
	for _, c := range []io.Closer{l.socket, l.in, l.out} {
		_ = c.Close() // nothing is buffered in them
	}
}

// inheritLimits is the worker's.
func inheritLimits() (*limitFiles, error) {
	memory := os.NewFile(memoryFile, "memory")
	defer memory.Close()
	m, err := mapMemory(memory)
	if err != nil {
		return nil, err
	}
	s, err := fileConn(os.NewFile(unixFile, "socket"))
	if err != nil {
		return nil, err
	}
	return &limitFiles{m, s, os.NewFile(pipeIn, "in"), os.NewFile(pipeOut, "out")}, nil
}

// mapMemory maps all of it.
func mapMemory(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	return m, os.NewSyscallError("mmap", err)
}

func fileConn(f *os.File) (net.Conn, error) {
	defer f.Close()
	return net.FileConn(f)
}

// payloads are the memory for what goes there, and for what comes back.
func (l *limitFiles) payloads() (there, back []byte) {
	m := l.memory[limitMemory:]
	return m[:len(m)/2], m[len(m)/2:]
}

// makeLimits is the host's: its ends and the files for the worker.
func makeLimits(payload int) (ours *limitFiles, theirs []*os.File, err error) {
	var files []*os.File
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
		}
	}()
	keep := func(fd int, name string) *os.File {
		f := os.NewFile(uintptr(fd), name)
		files = append(files, f)
		return f
	}
	fd, err := unix.MemfdCreate("tandem-bench", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("memfd_create", err)
	}
	memory := keep(fd, "memory")
	if err := memory.Truncate(limitMemory + 2*int64(payload)); err != nil {
		return nil, nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ourSocket, theirSocket := keep(pair[0], "socket"), keep(pair[1], "socket")
	theirIn, ourOut, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	files = append(files, theirIn, ourOut)
	ourIn, theirOut, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	files = append(files, ourIn, theirOut)
	m, err := mapMemory(memory)
	if err != nil {
		return nil, nil, err
	}
	conn, err := fileConn(ourSocket)
	if err != nil {
		return nil, nil, err
	}
	return &limitFiles{m, conn, ourIn, ourOut}, []*os.File{memory, theirSocket, theirIn, theirOut}, nil
}
