// Package fdpass passes open files from one process to another over a Unix
// socket. Package ring and the drivers are made with it; programs have [ring.Exchange]
// and ipc.File.
//
// [ring.Exchange]: https://pkg.go.dev/github.com/tandemipc/tandem/ring#Exchange
package fdpass

import (
	"errors"
	"net"
	"os"
)

// ErrTooManyFiles is the error of a Reader that has got more files than it keeps.
var ErrTooManyFiles = errors.New("tandem: more files were passed than anybody has asked for")

// Reader reads from Conn and keeps the files that arrive with the bytes, up to four. It fails where there are more. Close
// closes those that are in Files by then.
type Reader struct {
	Conn  *net.UnixConn
	Files []*os.File
}

// Discard is Close for files that may be anything, which takes as long as their sender likes: it does not wait for that.
func (r *Reader) Discard() {
	if len(r.Files) > 0 {
		own := Reader{Files: r.Files}
		r.Files = nil
		go own.Close()
	}
}

// Close closes Files. It leaves Conn open.
func (r *Reader) Close() {
	for _, f := range r.Files {
		f.Close()
	}
	r.Files = nil
}
