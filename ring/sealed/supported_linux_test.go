package sealed

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// forgetSupport makes the next call of Supported try again.
func forgetSupport() {
	support.Lock()
	defer support.Unlock()
	support.known, support.err = false, nil
}

// Whatever a system call answers: what cannot change is remembered and means that the
// system cannot do it, and anything else is neither.
func TestSupportedRemembersWhatIsFinal(t *testing.T) {
	oldMemfd, oldFcntl := sysMemfdCreate, sysFcntl
	t.Cleanup(func() {
		sysMemfdCreate, sysFcntl = oldMemfd, oldFcntl
		forgetSupport()
	})
	for _, call := range []struct {
		name     string
		fail     func(unix.Errno)
		isFinal  map[unix.Errno]bool
		ofCreate string
	}{
		{"memfd_create", func(errno unix.Errno) {
			sysMemfdCreate = func(string, int) (int, error) { return -1, errno }
		}, map[unix.Errno]bool{unix.ENOSYS: true, unix.EPERM: true, unix.EACCES: true, unix.EINVAL: true}, "cannot make shared memory"},
		{"fcntl", func(errno unix.Errno) {
			sysFcntl = func(uintptr, int, int) (int, error) { return -1, errno }
		}, map[unix.Errno]bool{unix.EINVAL: true}, "cannot seal shared memory"},
	} {
		for errno := unix.Errno(1); errno <= unix.EHWPOISON; errno++ {
			t.Run(call.name+" "+errno.Error(), func(t *testing.T) {
				forgetSupport()
				call.fail(errno)
				for range 2 {
					err := Supported()
					require.Error(t, err)
					require.Equal(t, call.isFinal[errno], errors.Is(err, ErrUnsupported), "%v", err)
					_, created := Create("test", 4096)
					_, frozen := CreateFrozen("test", []byte{1})
					for _, created := range []error{created, frozen} {
						require.Equal(t, call.isFinal[errno], errors.Is(created, ErrUnsupported), "%v", created)
						if !call.isFinal[errno] {
							require.ErrorIs(t, err, errno)
							require.ErrorIs(t, created, errno)
							require.ErrorContains(t, created, call.ofCreate)
						}
					}
				}
				sysMemfdCreate, sysFcntl = oldMemfd, oldFcntl
				if call.isFinal[errno] {
					require.ErrorIs(t, Supported(), ErrUnsupported)
				} else {
					require.NoError(t, Supported())
				}
			})
		}
	}
	forgetSupport()
	require.NoError(t, Supported())
	sysMemfdCreate = func(string, int) (int, error) { return -1, unix.EMFILE }
	require.NoError(t, Supported(), "success is final")
}
