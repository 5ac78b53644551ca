package rendezvous

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tandemipc/tandem/drivers/internal/sockfile"
	"github.com/tandemipc/tandem/ipc"
)

// MaxName is the longest name of a service in the services directory, in bytes.
const MaxName = 64

// lockSuffix ends the name of the file that is locked while a name is taken.
const lockSuffix = ".lock"

// address is what a name stands for.
type address struct {
	name string // as the user wrote it
	// path is the absolute path of the socket, "" if the name is that of an abstract socket or of
	// a service.
	path     string
	abstract bool
}

// parse reads a name.
func parse(name string) (a address, err error) {
	bad := func(why string) (address, error) {
		return address{}, fmt.Errorf("%w: %.*q %s", ErrBadName, 2*sockfile.MaxPath, name, why)
	}
	a.name = name
	switch {
	case name == "":
		return bad("is empty")
	case strings.ContainsRune(name, 0):
		return bad("has a zero byte")
	case name[0] == '@':
		a.abstract = true
		switch {
		case len(name) == 1:
			return bad("has nothing after the @")
		case len(name) > sockfile.MaxPath:
			return bad(fmt.Sprintf("has %d bytes, largest allowed %d", len(name), sockfile.MaxPath))
		case runtime.GOOS != "linux":
			return address{}, fmt.Errorf("tandem: %q: %w: abstract sockets exist on Linux only; use a path", name, ipc.ErrUnsupported)
		}
		return a, nil
	case strings.ContainsRune(name, '/'), strings.ContainsRune(name, filepath.Separator):
		if last := name[len(name)-1]; last == '/' || last == filepath.Separator {
			return bad("ends with a separator, as directories do")
		}
		if a.path, err = filepath.Abs(name); err != nil {
			return address{}, fmt.Errorf("tandem: path %q: %w", name, err)
		}
		if base := filepath.Base(name); base == "." || base == ".." || filepath.Dir(a.path) == a.path {
			return bad("is a directory")
		}
		return a, nil
	}
	if why := badService(name); why != "" {
		return bad(why + " (a path has a slash: write ./ before it)")
	}
	return a, nil
}

// badService returns what is wrong with the name of a service, "" if nothing is.
func badService(name string) string {
	switch {
	case len(name) > MaxName:
		return fmt.Sprintf("has %d bytes, largest allowed %d", len(name), MaxName)
	case name[0] == '.':
		return "begins with a dot"
	case strings.HasSuffix(name, lockSuffix):
		return "ends with " + lockSuffix
	case !utf8.ValidString(name):
		return "is not UTF-8"
	}
	for _, r := range name {
		if !unicode.IsPrint(r) || r == ' ' || r == '\\' || r == ':' && runtime.GOOS == "windows" {
			return fmt.Sprintf("has the character %q", r)
		}
	}
	return ""
}

// locate finds the path of the socket; a service's directory is made if create is set.
func (a *address) locate(create bool) error {
	if a.path != "" || a.abstract {
		return nil
	}
	dir, err := servicesDir(create)
	if err != nil {
		return err
	}
	a.path = filepath.Join(dir, a.name)
	return nil
}
