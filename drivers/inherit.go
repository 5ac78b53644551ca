package drivers

import (
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
)

// fileKind is a kind of file, in words.
type fileKind string

const (
	kindSocket  fileKind = "a socket"
	kindPipe    fileKind = "a pipe"
	kindRegular fileKind = "a regular file"
	kindClosed  fileKind = "closed"
)

// inherit takes over the descriptors that the host has passed. A program between the
// two may have closed them, or used their numbers: each is looked at before it is
// touched. If one is not what it should be, nothing is taken over, and the host is
// told if it can be.
func (s *StartupData) inherit() error {
	if err := s.check(s.Control, "control socket", kindSocket); err != nil {
		return err
	}
	closeOnExec(s.Control)
	if err := s.checkOthers(); err != nil {
		_ = s.RefuseFor(err) // the error itself is returned as well
		return err
	}
	if s.Program > 0 {
		_ = os.NewFile(uintptr(s.Program), "program").Close() // it is only read from
	}
	if s.HostAlive > 0 {
		s.hostGone = make(chan struct{})
		hostAlive := hostAliveFile(s.HostAlive)
		go func() {
			// Nobody writes, so the read lasts as long as the writer does.
			if _, err := hostAlive.Read(make([]byte, 1)); err == io.EOF {
				close(s.hostGone)
			}
		}()
	}
	return nil
}

// checkOthers is check for all but the control socket.
func (s *StartupData) checkOthers() error {
	for _, d := range []struct {
		number int
		what   string
		kind   fileKind
	}{{s.HostAlive, "host-alive pipe", kindPipe}, {s.Program, "program's file", kindRegular}} {
		if d.number == 0 {
			continue
		}
		if err := s.check(d.number, d.what, d.kind); err != nil {
			return err
		}
	}
	// What the driver passes: only the driver knows which kind of file that is.
	for _, number := range slices.Sorted(maps.Keys(s.Inodes)) {
		if number == s.Control || number == s.HostAlive || number == s.Program {
			continue
		}
		if got, inode := lookAt(number); inode != s.Inodes[number] {
			return fmt.Errorf("tandem: descriptor %d, which driver %s has passed, is %s here (inode %d, expected %d): did a program between host and worker close or use it?",
				number, s.Driver, got, inode, s.Inodes[number])
		}
		closeOnExec(number)
	}
	return nil
}

// check fails if a descriptor is not of this kind, or is not the one that the host
// has passed.
func (s *StartupData) check(number int, what string, want fileKind) error {
	got, inode := lookAt(number)
	expected, known := s.Inodes[number]
	switch {
	case number <= 2 || number > math.MaxInt32: // the kernel would cut it
		return fmt.Errorf("tandem: descriptor %d cannot be the %s", number, what)
	case got != want:
		return fmt.Errorf("tandem: descriptor %d, the %s, is %s here: did a program between host and worker close or use it?", number, what, got)
	case known && inode != expected:
		return fmt.Errorf("tandem: descriptor %d, the %s, is another %s here (inode %d, expected %d): did a program between host and worker use it?",
			number, what, got[len("a "):], inode, expected)
	}
	return nil
}
