package rendezvous

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/tandemipc/tandem/ipc"
)

// Service is a server that listens in the services directory.
type Service struct {
	// Name is what to pass to [Dial].
	Name string
	// Path is that of its socket.
	Path string
	// PID is the process that listens, 0 if that is not known: the system does not tell, or the
	// server's queue is full.
	PID int
}

// Services returns who listens in the services directory now, sorted by name. Sockets of processes that
// have ended are neither returned nor removed. A server sees of it at most a connection that ends before it
// has brought a byte.
func Services() ([]Service, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	dir, err := servicesDir(false)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	d, err := openSite(filepath.Join(dir, "any"))
	if err != nil {
		return nil, fmt.Errorf("tandem: list the services: %w", failed(err))
	}
	defer d.close()
	names, err := d.dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("tandem: list the services: %w", failed(err))
	}
	slices.Sort(names)
	var all []Service
	for _, name := range names {
		s := site{filepath.Join(dir, name), d.root, d.dir}
		if badService(name) != "" {
			continue
		}
		if info, err := s.root.Lstat(name); err != nil || !mine(info) {
			continue
		}
		err := s.look()
		var peer Peer
		if err == nil {
			peer, err = who(s.path)
		}
		switch err = failed(err); {
		case errors.Is(err, ipc.ErrExhausted): // of this process, so it cannot tell
			return nil, fmt.Errorf("tandem: list the services: %w", err)
		case err != nil && !errors.Is(err, errFull):
			continue
		}
		all = append(all, Service{Name: name, Path: s.path, PID: peer.PID})
	}
	return all, nil
}
