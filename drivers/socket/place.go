package socket

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/tandemipc/tandem/drivers/internal/sockfile"
)

const (
	// socketName is the name of the socket in a private directory.
	socketName = "s"
	// privatePrefix begins the name of a private directory. 26 random letters
	// and digits follow.
	privatePrefix = "tandem-"
)

// privateName matches the names of private directories.
var privateName = regexp.MustCompile(`^` + privatePrefix + `[a-z0-9]{26}$`)

// place is where a worker listens. It is the zero value for a worker that has
// no path: see handover.
type place struct {
	path string // absolute
	// private: the directory was made for the socket alone, and goes with it.
	private bool
}

// userPlace checks the path that a user has chosen for a worker of user uid.
func userPlace(path string, uid int) (place, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return place{}, fmt.Errorf("tandem: socket: Driver.Path %q: %w", path, err)
	}
	if len(abs) > sockfile.MaxPath {
		return place{}, fmt.Errorf("tandem: socket: path %.*q has %d bytes, largest allowed %d: choose a shorter Driver.Path, or none", sockfile.MaxPath+1, abs, len(abs), sockfile.MaxPath)
	}
	if strings.ContainsRune(abs, 0) {
		return place{}, fmt.Errorf("tandem: socket: path %q has a zero byte: choose another Driver.Path", abs)
	}
	if filepath.Dir(abs) == abs {
		return place{}, fmt.Errorf("tandem: socket: path %q is a directory: choose another Driver.Path", abs)
	}
	p := place{path: abs}
	s := newSite(p, uid)
	defer s.close()
	if err := s.open(); err != nil {
		return place{}, fmt.Errorf("tandem: socket: no worker can listen at Driver.Path %q: %w", abs, err)
	}
	return p, s.checkFree()
}

// privatePlace finds a place for a worker of user uid that only this user can
// enter. The worker makes the directory, so that nothing is left to remove if
// host and worker are killed before. Nobody can take its name first: the name
// is random, and is in no directory before the worker makes it.
func privatePlace(uid int) (place, error) {
	var errs []error
	for _, parent := range privateParents() {
		p := place{path: filepath.Join(parent, privatePrefix+strings.ToLower(rand.Text()), socketName), private: true}
		err := checkParent(parent, uid)
		if err == nil && len(p.path) > sockfile.MaxPath {
			err = fmt.Errorf("path %q has %d bytes, largest allowed %d", p.path, len(p.path), sockfile.MaxPath)
		}
		if err == nil {
			return p, nil
		}
		errs = append(errs, err)
	}
	return place{}, fmt.Errorf("tandem: socket: no directory for a private socket (see XDG_RUNTIME_DIR, TMPDIR, Driver.Path): %w", errors.Join(errs...))
}

// privateParents returns the directories in which private directories may lie,
// the best one first.
func privateParents() []string {
	var dirs []string
	for _, dir := range []string{sockfile.RuntimeDir(), filepath.Clean(os.TempDir()), "/tmp"} {
		if filepath.IsAbs(dir) && (len(dirs) == 0 || dirs[len(dirs)-1] != dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// checkParent returns an error unless a worker of user uid can have a private
// directory in parent.
func checkParent(parent string, uid int) error {
	info, err := os.Stat(parent)
	if err != nil {
		return err
	}
	mode := info.Mode()
	wanted := fs.FileMode(0o003)
	if sockfile.Owner(info) == uid {
		wanted = 0o300
	}
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", parent)
	case mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0:
		return fmt.Errorf("%s has mode %v: other users could replace what is in it", parent, mode)
	case uid != 0 && mode.Perm()&wanted != wanted:
		return fmt.Errorf("%s has mode %v: user %d cannot make a directory in it", parent, mode, uid)
	}
	return nil
}
