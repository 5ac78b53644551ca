//go:build linux

package rendezvous

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The services directory is made for this user alone. If it cannot be trusted, nobody listens or dials there.
func TestServicesDirectory(t *testing.T) {
	for name, c := range map[string]struct {
		// prepare is given the runtime directory and the cache directory. XDG_RUNTIME_DIR and
		// XDG_CACHE_HOME name them.
		prepare func(t *testing.T, run, cache string)
		want    string // where it is, below their common parent
		err     string
		root    bool // only root can make that
	}{
		"in the runtime directory":    {func(*testing.T, string, string) {}, "run/tandem", "", false},
		"no runtime directory":        {func(t *testing.T, _, _ string) { t.Setenv("XDG_RUNTIME_DIR", "") }, "cache/tandem/services", "", false},
		"it does not exist":           {func(t *testing.T, run, _ string) { require.NoError(t, os.Remove(run)) }, "cache/tandem/services", "", false},
		"it is open to others":        {func(t *testing.T, run, _ string) { chmod(t, run, 0o755) }, "cache/tandem/services", "", false},
		"it is another's":             {func(t *testing.T, run, _ string) { chown(t, run) }, "cache/tandem/services", "", true},
		"neither":                     {func(t *testing.T, _, _ string) { unset(t, "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "HOME") }, "", "no services directory", false},
		"made with an odd mode":       {func(t *testing.T, run, _ string) { mkdir(t, run+"/tandem", 0o000) }, "run/tandem", "", false},
		"others read it":              {func(t *testing.T, run, _ string) { mkdir(t, run+"/tandem", 0o755) }, "run/tandem", "", false},
		"the group writes it":         {func(t *testing.T, run, _ string) { mkdir(t, run+"/tandem", 0o770) }, "", "others can write it: chmod go-w", false},
		"all write it":                {func(t *testing.T, run, _ string) { mkdir(t, run+"/tandem", 0o777|fs.ModeSticky) }, "", "others can write it", false},
		"a file":                      {func(t *testing.T, run, _ string) { touch(t, run+"/tandem") }, "", "is a file of mode", false},
		"a link":                      {func(t *testing.T, run, cache string) { link(t, cache, run+"/tandem") }, "", "is a file of mode L", false},
		"belongs to another":          {func(t *testing.T, run, _ string) { mkdir(t, run+"/tandem", 0o700); chown(t, run+"/tandem") }, "", "belongs to user 65534", true},
		"all write what is above":     {func(t *testing.T, run, _ string) { chmod(t, filepath.Dir(run), 0o777) }, "", "which holds the services directory", false},
		"sticky above":                {func(t *testing.T, run, _ string) { chmod(t, filepath.Dir(run), 0o777|fs.ModeSticky) }, "run/tandem", "", false},
		"what is above is another's":  {func(t *testing.T, run, _ string) { chown(t, filepath.Dir(run)) }, "", "belongs to user 65534, expected user", true},
		"the cache goes through link": {func(t *testing.T, _, cache string) { viaLink(t, cache) }, "link/tandem/services", "", false},
		"a link to an open directory": {func(t *testing.T, _, cache string) { viaLink(t, cache); chmod(t, cache, 0o777) }, "", "which holds the services directory", false},
		"a link in an open directory": {func(t *testing.T, _, cache string) { linkInOpen(t, cache) }, "", "which holds the services directory", false},
		"a link of another's":         {func(t *testing.T, _, cache string) { linkOfAnother(t, cache) }, "", "belongs to user 65534, expected user", true},
	} {
		t.Run(name, func(t *testing.T) {
			if c.root && os.Geteuid() != 0 {
				t.Skip("only root can give a file to another user")
			}
			top := tempDir(t)
			run, cache := filepath.Join(top, "run"), filepath.Join(top, "cache")
			mkdir(t, run, 0o700)
			t.Setenv("XDG_RUNTIME_DIR", run)
			t.Setenv("XDG_CACHE_HOME", cache)
			c.prepare(t, run, cache)
			l, err := Listen("quotes", ListenOptions{})
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				if name != "neither" {
					require.ErrorIs(t, err, ErrNotAllowed)
					_, _, err = Dial(testContext(t), "quotes", DialOptions{})
					require.ErrorIs(t, err, ErrNotAllowed)
					_, err = Services()
					require.ErrorIs(t, err, ErrNotAllowed)
				}
				return
			}
			require.NoError(t, err)
			require.Equal(t, filepath.Join(top, c.want, "quotes"), l.Path())
			info, err := os.Stat(filepath.Dir(l.Path()))
			require.NoError(t, err)
			if name == "others read it" {
				require.Equal(t, os.ModeDir|0o755, info.Mode(), "the user wants it so")
			} else {
				require.Equal(t, os.ModeDir|0o700, info.Mode())
			}
			all, err := Services()
			require.NoError(t, err)
			require.Equal(t, []Service{{"quotes", l.Path(), os.Getpid()}}, all)
			require.NoError(t, l.Close())
		})
	}
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	require.NoError(t, os.Chmod(path, mode))
}

func chown(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.Chown(path, nobody, nobody))
}

func mkdir(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	require.NoError(t, os.Mkdir(path, mode))
	chmod(t, path, mode)
}

func touch(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte("precious"), 0o600))
}

func link(t *testing.T, to, path string) {
	t.Helper()
	require.NoError(t, os.Symlink(to, path))
}

func unset(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		t.Setenv(name, "")
	}
}

// viaLink makes the cache directory one that a symbolic link leads to.
func viaLink(t *testing.T, cache string) {
	unset(t, "XDG_RUNTIME_DIR")
	mkdir(t, cache, 0o700)
	to := filepath.Join(filepath.Dir(cache), "link")
	link(t, cache, to)
	t.Setenv("XDG_CACHE_HOME", to)
}

// linkInOpen makes the cache directory one that a link leads to which others can replace.
func linkInOpen(t *testing.T, cache string) {
	unset(t, "XDG_RUNTIME_DIR")
	mkdir(t, cache, 0o700)
	open := filepath.Join(filepath.Dir(cache), "open")
	mkdir(t, open, 0o777)
	link(t, cache, open+"/link")
	t.Setenv("XDG_CACHE_HOME", open+"/link")
}

// linkOfAnother makes the cache directory one that a link of another user leads to.
func linkOfAnother(t *testing.T, cache string) {
	viaLink(t, cache)
	require.NoError(t, os.Lchown(os.Getenv("XDG_CACHE_HOME"), nobody, nobody))
}

// The modes of what is made do not depend on the umask.
func TestUmask(t *testing.T) {
	for _, umask := range []string{"0", "022", "077", "0777"} {
		for _, uid := range []int{os.Geteuid(), nobody} {
			t.Run(fmt.Sprintf("%s by user %d", umask, uid), func(t *testing.T) {
				home := openDir(t, uid, 0o755)
				cmd := as(t, uid, helper(t, "listen", umask, "quotes"))
				cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR=", "XDG_CACHE_HOME="+home+"/c")
				p := start(t, cmd)
				p.expect("ready")
				p.tell()
				p.expect("won")
				for path, mode := range map[string]fs.FileMode{
					"/c": fs.ModeDir | 0o700, "/c/tandem": fs.ModeDir | 0o700, "/c/tandem/services": fs.ModeDir | 0o700,
					"/c/tandem/services/quotes": fs.ModeSocket | 0o600,
				} {
					info, err := os.Lstat(home + path)
					require.NoError(t, err)
					require.Equal(t, mode, info.Mode(), path)
				}
				require.Equal(t, []string{"quotes"}, entries(t, home+"/c/tandem/services"))
				p.end()
				require.Empty(t, entries(t, home+"/c/tandem/services"))
			})
		}
	}
}

func TestMode(t *testing.T) {
	path := socketIn(t)
	l, err := Listen(path, ListenOptions{Mode: 0o666 | fs.ModeSetuid})
	require.NoError(t, err)
	defer l.Close()
	info, err := os.Lstat(path)
	require.NoError(t, err)
	require.Equal(t, fs.ModeSocket|0o666, info.Mode())
}
