// Package fdpass passes open files from one process to another over a Unix
// socket. Package ring and the drivers are made with it; programs have [ring.Exchange]
// and ipc.File.
//
// [ring.Exchange]: https://pkg.go.dev/github.com/tandemipc/tandem/ring#Exchange
package fdpass

import (
	"net"
	"os"
)

// Reader reads from Conn and keeps the first four files that arrive with the bytes. Close
// closes those that are in Files by then.
type Reader struct {
	Conn  *net.UnixConn
	Files []*os.File
}

// Close closes Files. It leaves Conn open.
func (r *Reader) Close() {
	for _, f := range r.Files {
		f.Close()
	}
	r.Files = nil
}
