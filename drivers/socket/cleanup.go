package socket

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// A detached worker that is killed after its host has gone leaves its private
// directory behind. The next start or attach of the same user removes such
// directories.

const (
	// dirPattern is how private directories are called, as os.MkdirTemp has it.
	dirPattern = "tandem-*"
	// sweepEvery is the least time between two sweeps of one process.
	sweepEvery = time.Minute
	// staleAge is how old a socket that nobody listens on has to be, and emptyAge a
	// directory without one: a worker that is starting has such, too.
	staleAge = 10 * time.Second
	emptyAge = time.Hour
	// maxSweep bounds the directories that one sweep looks at.
	maxSweep = 1000
)

// dirName is what os.MkdirTemp makes of dirPattern.
var dirName = regexp.MustCompile(`^tandem-[0-9]+$`)

var swept struct {
	sync.Mutex
	last time.Time
}

// sweep removes the private directories of dead workers of this user, now and
// then.
func sweep() {
	swept.Lock()
	defer swept.Unlock()
	if now := time.Now(); swept.last.IsZero() || now.Sub(swept.last) > sweepEvery {
		swept.last = now
		for _, parent := range tempDirs() {
			dirs, _ := filepath.Glob(filepath.Join(parent, dirPattern))
			for _, dir := range dirs[:min(len(dirs), maxSweep)] {
				sweepDir(dir, staleAge)
			}
		}
	}
}

// tempDirs are where private directories are made.
func tempDirs() []string {
	dirs := []string{filepath.Clean(os.TempDir())}
	if dirs[0] != "/tmp" {
		dirs = append(dirs, "/tmp")
	}
	return dirs
}

// sweepDir removes dir if it is the private directory of a worker of this user
// that is dead, and has been so for at least this time.
func sweepDir(dir string, age time.Duration) {
	info, err := os.Lstat(dir)
	if err != nil || !dirName.MatchString(filepath.Base(dir)) || info.Mode() != fs.ModeDir|0o700 || !ownedByUs(info) {
		return
	}
	unlock := lockDir(dir)
	defer unlock()
	path := filepath.Join(dir, socketName)
	info, err = os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if info, err = os.Lstat(dir); err == nil && time.Since(info.ModTime()) > emptyAge {
			_ = os.Remove(dir) // fails unless it is empty
		}
	case err == nil && time.Since(info.ModTime()) >= age && checkFree(path) == nil:
		if os.Remove(path) == nil {
			_ = os.Remove(dir)
		}
	}
}
