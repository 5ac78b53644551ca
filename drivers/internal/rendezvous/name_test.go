//go:build linux

package rendezvous

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/drivers/internal/sockfile"
	"github.com/tandemipc/tandem/ipc"
)

func TestNames(t *testing.T) {
	wd, err := os.Getwd()
	require.NoError(t, err)
	for _, c := range []struct {
		name     string
		path     string // "-" for a service, "@" for an abstract socket
		contains string // of the error
	}{
		{"quotes", "-", ""}, {"quotes.v2_x-1+ü", "-", ""}, {strings.Repeat("x", MaxName), "-", ""}, {"a@b", "-", ""}, {"a:b", "-", ""},
		{"/run/x", "/run/x", ""}, {"./x", filepath.Join(wd, "x"), ""}, {"a/../b", filepath.Join(wd, "b"), ""}, {"/a//b", "/a/b", ""}, {"./@x", filepath.Join(wd, "@x"), ""},
		{"/.x", "/.x", ""}, {"/x.lock", "/x.lock", ""}, {"/" + strings.Repeat("d/", 1000) + "x", "/" + strings.Repeat("d/", 1000) + "x", ""},
		{"@x", "@", ""}, {"@a/b", "@", ""}, {"@" + strings.Repeat("x", sockfile.MaxPath-1), "@", ""},
		{"", "", "is empty"}, {"@", "", "nothing after the @"}, {"@" + strings.Repeat("x", sockfile.MaxPath), "", "largest allowed 107"},
		{"a\x00b", "", "zero byte"}, {"/a\x00b", "", "zero byte"}, {"@a\x00b", "", "zero byte"},
		{".", "", "begins with a dot"}, {"..", "", "begins with a dot"}, {".x", "", "begins with a dot"}, {"x.lock", "", "ends with .lock"},
		{"/", "", "separator"}, {"/a/", "", "separator"}, {"/a/.", "", "is a directory"}, {"/a/..", "", "is a directory"},
		{strings.Repeat("x", MaxName+1), "", "largest allowed 64"}, {"a b", "", "has the character"}, {"a\nb", "", "has the character"}, {"a\\b", "", "has the character"}, {"\xff", "", "UTF-8"},
	} {
		a, err := parse(c.name)
		if c.contains != "" {
			require.ErrorIs(t, err, ErrBadName, "%q", c.name)
			require.ErrorContains(t, err, c.contains, "%q", c.name)
			require.ErrorContains(t, err, "tandem: ")
			require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(err))
			_, err = Listen(c.name, ListenOptions{})
			require.ErrorIs(t, err, ErrBadName)
			_, _, err = Dial(t.Context(), c.name, DialOptions{})
			require.ErrorIs(t, err, ErrBadName)
			continue
		}
		require.NoError(t, err, "%q", c.name)
		require.Equal(t, c.path == "@", a.abstract, "%q", c.name)
		if c.path != "@" && c.path != "-" {
			require.Equal(t, c.path, a.path)
		} else {
			require.Empty(t, a.path)
		}
	}
}

// Whatever the name of a service is, its socket lies in the services directory.
func TestServicesStayInTheirDirectory(t *testing.T) {
	run := tempDir(t)
	t.Setenv("XDG_RUNTIME_DIR", run)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a./@\\:~ -]{1,4}`)).Draw(t, "name")
		a, err := parse(name)
		if err != nil {
			require.ErrorIs(t, err, ErrBadName)
			return
		}
		require.Equal(t, strings.HasPrefix(name, "@"), a.abstract)
		require.Equal(t, strings.Contains(name, "/") && !a.abstract, a.path != "", "a slash makes it a path")
		if a.abstract || a.path != "" {
			return
		}
		require.NoError(t, a.locate(true))
		require.Equal(t, filepath.Join(run, "tandem"), filepath.Dir(a.path))
		require.Equal(t, name, filepath.Base(a.path))
	})
	require.NoError(t, os.Remove(filepath.Join(run, "tandem")))
}
