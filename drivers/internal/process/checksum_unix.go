//go:build unix

package process

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// verify compares the checksum of the program that cmd is to run. On Linux, cmd
// then runs the very file that was read, whatever its path names by then.
func verify(cmd *drivers.Command, given *files) error {
	path := cmd.Cmd.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(cmd.Cmd.Dir, path) // as os/exec takes it
	}
	if attr := cmd.Cmd.SysProcAttr; attr != nil && attr.Chroot != "" {
		path = filepath.Join(attr.Chroot, path)
	}
	f, err := openRegular(path)
	if err != nil {
		return fmt.Errorf("tandem: checksum of worker: %w", err)
	}
	if runtime.GOOS == "linux" {
		// A script's interpreter opens the file once more, so it is inherited.
		cmd.Startup.Program = given.add(f)
		cmd.Cmd.Path = fmt.Sprintf("/proc/self/fd/%d", cmd.Startup.Program)
	} else {
		defer f.Close()
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("tandem: checksum of worker: %w", err)
	}
	if got := [sha256.Size]byte(h.Sum(nil)); got != *cmd.Checksum {
		return &ipc.ChecksumError{Program: cmd.Cmd.Args[0], Want: *cmd.Checksum, Got: got}
	}
	return nil
}

// openRegular opens a regular file. It does not open anything else, and does not
// block if something else takes the place of the file meanwhile.
func openRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	var f *os.File
	if info.Mode().IsRegular() {
		if f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0); err != nil {
			return nil, err
		}
		if info, err = f.Stat(); err != nil {
			f.Close()
			return nil, err
		}
	}
	if !info.Mode().IsRegular() {
		f.Close() // a nil file does nothing
		return nil, fmt.Errorf("%s is not a regular file: its mode is %v", path, info.Mode())
	}
	return f, nil
}
