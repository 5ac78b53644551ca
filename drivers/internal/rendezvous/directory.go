package rendezvous

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tandemipc/tandem/drivers/internal/sockfile"
)

// servicesDir returns the directory of the sockets of this user's services, once it is known
// that nobody else can change what is in it. If it does not exist and create is set, it is made.
func servicesDir(create bool) (string, error) {
	dir, err := servicesPath()
	if err != nil {
		return "", err
	}
	if create {
		if err := makePrivate(dir); err != nil {
			return "", fmt.Errorf("tandem: make the services directory: %w", err)
		}
	}
	return dir, checkPrivate(dir)
}

// servicesPath returns where the services directory has to be.
func servicesPath() (string, error) {
	if run := sockfile.RuntimeDir(); run != "" {
		return filepath.Join(run, "tandem"), nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("tandem: there is no services directory: XDG_RUNTIME_DIR is not usable, and %w", err)
	}
	return filepath.Join(cache, "tandem", "services"), nil
}

// makePrivate makes a directory that only this user can enter, and those above it that do not
// exist, whatever the umask is.
func makePrivate(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if parent := filepath.Dir(dir); parent != dir {
			if err := makePrivate(parent); err != nil {
				return err
			}
		}
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if info, err = os.Lstat(dir); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	// The umask of whoever has just made it may have taken away what its user needs. To give
	// that back twice harms nobody.
	if info.IsDir() && info.Mode().Perm()&0o700 != 0o700 && sockfile.Owner(info) == os.Geteuid() {
		return os.Chmod(dir, info.Mode().Perm()|0o700)
	}
	return nil
}

// checkPrivate returns an error if another user could change what is in dir: dir has to be a
// directory of this user's that no other can write, and what is above it has to belong to this
// user or root, and to be writable by no other, or to be sticky.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("tandem: services directory: %w", err)
	case !info.IsDir():
		return fmt.Errorf("%w: services directory %s is a file of mode %v: remove it", ErrNotAllowed, dir, info.Mode())
	case sockfile.Owner(info) != os.Geteuid():
		return fmt.Errorf("%w: services directory %s belongs to user %d, expected user %d: remove it, or set XDG_RUNTIME_DIR", ErrNotAllowed, dir, sockfile.Owner(info), os.Geteuid())
	case othersWrite(info):
		return fmt.Errorf("%w: services directory %s has mode %v, others can write it: chmod go-w %[2]s", ErrNotAllowed, dir, info.Mode())
	}
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("tandem: services directory: %w", err)
	}
	if resolved != dir {
		if err := checkAbove(resolved); err != nil {
			return err
		}
	}
	return checkAbove(dir)
}

// checkAbove returns an error if another user could change one of the directories above dir, or a symbolic link
// in its path.
func checkAbove(dir string) error {
	for above := filepath.Dir(dir); ; above = filepath.Dir(above) {
		info, err := os.Lstat(above)
		switch {
		case err != nil:
			return fmt.Errorf("tandem: directory above the services directory: %w", err)
		case sockfile.Owner(info) != os.Geteuid() && sockfile.Owner(info) != 0:
			return fmt.Errorf("%w: %s, which holds the services directory %s, belongs to user %d, expected user %d or 0", ErrNotAllowed, above, dir, sockfile.Owner(info), os.Geteuid())
		case info.IsDir() && othersWrite(info) && info.Mode()&fs.ModeSticky == 0:
			return fmt.Errorf("%w: %s, which holds the services directory %s, has mode %v, others can write it: chmod go-w %[2]s", ErrNotAllowed, above, dir, info.Mode())
		}
		if above == filepath.Dir(above) {
			return nil
		}
	}
}
