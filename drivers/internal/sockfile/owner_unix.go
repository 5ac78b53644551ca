//go:build unix && !solaris && !aix

package sockfile

import (
	"io/fs"
	"syscall"
)

// Owner returns the user that a file belongs to, or -1 if that is not known.
func Owner(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
