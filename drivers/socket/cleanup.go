package socket

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A detached worker that is killed after its host has gone leaves its private
// directory behind. The next start of a detached worker, or attach, of the same
// user removes such directories.

const (
	// cleanUpEvery is the least time between two cleanups of one process.
	cleanUpEvery = time.Minute
	// deadAge is how old a socket that nobody listens on has to be, and emptyAge
	// a directory without one: a worker that is starting has such, too.
	deadAge  = 10 * time.Second
	emptyAge = time.Hour
	// maxNames bounds the names in one directory that a cleanup looks at.
	maxNames = 10_000
)

var cleaned struct {
	sync.Mutex
	last time.Time
}

// cleanUp removes the private directories of dead workers of this user, now and
// then.
func cleanUp() {
	cleaned.Lock()
	defer cleaned.Unlock()
	if now := time.Now(); cleaned.last.IsZero() || now.Sub(cleaned.last) > cleanUpEvery {
		cleaned.last = now
		for _, parent := range privateParents() {
			cleanUpIn(parent)
		}
	}
}

func cleanUpIn(parent string) {
	root, err := os.OpenRoot(parent) // which, unlike os.Open, opens directories only
	if err != nil {
		return
	}
	defer root.Close()
	dir, err := root.Open(".")
	if err != nil {
		return
	}
	defer dir.Close()
	for range maxNames / 100 {
		names, err := dir.Readdirnames(100)
		for _, name := range names {
			if strings.HasPrefix(name, privatePrefix) {
				s := newSite(place{path: filepath.Join(parent, name, socketName), private: true}, os.Geteuid())
				s.removeDead(deadAge)
				s.close()
			}
		}
		if err != nil {
			return
		}
	}
}
