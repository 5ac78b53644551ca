//go:build linux

package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/worker"
)

// reporter is the name of a program that reports what it finds around itself.
const reporter = "test-reporter"

func init() { programs[reporter] = beReporter }

// found is what a process finds around itself.
type found struct {
	Args, Env  []string
	Dir, Stdin string
	Stdout     string   // what it is
	Files      []string // what is at the numbers from 3 on
	Session    bool     // the process leads one
}

// beReporter writes what it finds to a file beside its own name, and words to
// stdout and stderr. A worker then serves.
func beReporter() error {
	f := found{Args: os.Args, Env: os.Environ(), Stdout: fileAt(1)}
	slices.Sort(f.Env)
	f.Dir, _ = os.Getwd()
	if input, err := io.ReadAll(os.Stdin); err != nil {
		f.Stdin = err.Error()
	} else {
		f.Stdin = string(input)
	}
	for fd := 3; fd < 6; fd++ {
		f.Files = append(f.Files, fileAt(fd))
	}
	sid, _ := unix.Getsid(0)
	f.Session = sid == os.Getpid()
	fmt.Print("out.")
	fmt.Fprint(os.Stderr, "err.")
	fmt.Print("out again.")
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := os.WriteFile(os.Args[0]+".json", b, 0o600); err != nil {
		return err
	}
	if drivers.Startup() == nil {
		return nil
	}
	return worker.NewServer().Serve(context.Background())
}

// fileAt says what a descriptor is: a path, the kind of what has none, or nothing.
func fileAt(fd int) string {
	name, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	kind, _, _ := strings.Cut(name, ":[")
	return kind
}

// outcome is what comes of a command.
type outcome struct {
	found
	err            error
	stdout, stderr string // what has arrived where the command sends it
}

// A command is to a worker what it is to os/exec: each field, and nil and empty.
func TestCommandFields(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, reporter)
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, program))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink("/usr", link))
	t.Setenv("PWD", dir) // what a child inherits need not be true
	file := func(t *testing.T, content string) *os.File {
		f, err := os.CreateTemp(t.TempDir(), "file")
		require.NoError(t, err)
		_, err = f.WriteString(content)
		require.NoError(t, err)
		_, err = f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	plainEnv := []string{"HOME=/nowhere"}
	cases := map[string]func(t *testing.T, c *exec.Cmd){
		"path":           func(*testing.T, *exec.Cmd) {},
		"no path":        func(_ *testing.T, c *exec.Cmd) { c.Path = "" },
		"args":           func(_ *testing.T, c *exec.Cmd) { c.Args = []string{program, "a", "", "b c"} },
		"args empty":     func(_ *testing.T, c *exec.Cmd) { c.Args = []string{} },
		"env":            func(_ *testing.T, c *exec.Cmd) { c.Env = plainEnv },
		"env empty":      func(_ *testing.T, c *exec.Cmd) { c.Env = []string{} },
		"env twice":      func(_ *testing.T, c *exec.Cmd) { c.Env = []string{"A=1", "B=2", "A=3", "C"} },
		"env with NUL":   func(_ *testing.T, c *exec.Cmd) { c.Env = []string{"A=\x00"} },
		"dir":            func(_ *testing.T, c *exec.Cmd) { c.Dir = "/usr" },
		"dir by link":    func(_ *testing.T, c *exec.Cmd) { c.Dir = link },
		"dir and env":    func(_ *testing.T, c *exec.Cmd) { c.Dir, c.Env = link, plainEnv },
		"dir relative":   func(_ *testing.T, c *exec.Cmd) { c.Dir = ".." },
		"dir missing":    func(_ *testing.T, c *exec.Cmd) { c.Dir = filepath.Join(dir, "missing") },
		"path in dir":    func(_ *testing.T, c *exec.Cmd) { c.Path, c.Args, c.Dir = "./"+reporter, []string{program}, dir },
		"stdin file":     func(t *testing.T, c *exec.Cmd) { c.Stdin = file(t, "from a file") },
		"stdin reader":   func(_ *testing.T, c *exec.Cmd) { c.Stdin = strings.NewReader(strings.Repeat("from a reader", 10_000)) },
		"stdin empty":    func(_ *testing.T, c *exec.Cmd) { c.Stdin = new(bytes.Buffer) },
		"stdin fails":    func(_ *testing.T, c *exec.Cmd) { c.Stdin = io.MultiReader(strings.NewReader("begun"), failingReader{}) },
		"stdin no file":  func(_ *testing.T, c *exec.Cmd) { c.Stdin = (*os.File)(nil) },
		"stdout file":    func(t *testing.T, c *exec.Cmd) { c.Stdout = file(t, "") },
		"stdout writer":  func(_ *testing.T, c *exec.Cmd) { c.Stdout = new(bytes.Buffer) },
		"stderr file":    func(t *testing.T, c *exec.Cmd) { c.Stderr = file(t, "") },
		"stderr writer":  func(_ *testing.T, c *exec.Cmd) { c.Stderr = new(bytes.Buffer) },
		"stderr no file": func(_ *testing.T, c *exec.Cmd) { c.Stderr = (*os.File)(nil) },
		"one writer":     func(_ *testing.T, c *exec.Cmd) { b := new(bytes.Buffer); c.Stdout, c.Stderr = b, b },
		"two writers":    func(_ *testing.T, c *exec.Cmd) { c.Stdout, c.Stderr = new(bytes.Buffer), new(bytes.Buffer) },
		"no comparable writer": func(_ *testing.T, c *exec.Cmd) {
			c.Stdout, c.Stderr = sliceWriter{new(bytes.Buffer)}, sliceWriter{new(bytes.Buffer)}
		},
		"extra files":            func(t *testing.T, c *exec.Cmd) { c.ExtraFiles = []*os.File{file(t, "1"), file(t, "2")} },
		"extra files with holes": func(t *testing.T, c *exec.Cmd) { c.ExtraFiles = []*os.File{nil, file(t, "2"), nil} },
		"session":                func(_ *testing.T, c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} },
		"not allowed":            func(_ *testing.T, c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Chroot: "/no/such/root"} },
		"err":                    func(_ *testing.T, c *exec.Cmd) { c.Err = errors.New("it is said to fail") },
		"not found":              func(_ *testing.T, c *exec.Cmd) { *c = *exec.Command("no-such-program-anywhere") },
	}
	for name, set := range cases {
		t.Run(name, func(t *testing.T) {
			command := func() *exec.Cmd {
				c := &exec.Cmd{Path: program}
				set(t, c)
				return c
			}
			// The files that a command gives are opened for each, so their names differ.
			same := func(f found, c *exec.Cmd) found {
				f.Files = f.Files[:min(len(f.Files), len(c.ExtraFiles))]
				for i, extra := range c.ExtraFiles {
					if i < len(f.Files) && extra != nil && f.Files[i] == extra.Name() {
						f.Files[i] = "the command's"
					}
				}
				if out, ok := c.Stdout.(*os.File); ok && f.Stdout == out.Name() {
					f.Stdout = "the command's"
				}
				return f
			}
			run := func(c *exec.Cmd, run func() error) outcome {
				o := outcome{err: run()}
				if b, err := os.ReadFile(program + ".json"); err == nil {
					require.NoError(t, json.Unmarshal(b, &o.found))
					require.NoError(t, os.Remove(program+".json"))
				}
				o.found = same(o.found, c)
				o.stdout, o.stderr = written(t, c.Stdout), written(t, c.Stderr)
				return o
			}
			c := command()
			want := run(c, func() error {
				err := c.Run()
				if strings.Contains(name, "fails") { // os/exec reports the copy's error, and the process never sees it
					require.ErrorIs(t, err, errReader)
					err = nil
				}
				return err
			})
			for _, s := range spawners {
				if s.name != "shm" && s.name != "socket" {
					continue
				}
				c := command()
				got := run(c, func() error {
					w, err := s.spawn(t.Context(), c)
					if err != nil {
						return err
					}
					return w.Close()
				})
				require.Equal(t, want.found, got.found, s.name)
				require.Equal(t, want.stdout, got.stdout, s.name)
				require.Equal(t, want.stderr, got.stderr, s.name)
				if want.err == nil {
					require.NoError(t, got.err, s.name)
				} else {
					reason := want.err
					for inner := errors.Unwrap(reason); inner != nil; inner = errors.Unwrap(reason) {
						reason = inner
					}
					require.ErrorContains(t, got.err, reason.Error(), s.name)
				}
			}
		})
	}
}

var errReader = errors.New("the reader fails")

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errReader }

// sliceWriter has a type whose values cannot be compared.
type sliceWriter []*bytes.Buffer

func (w sliceWriter) Write(b []byte) (int, error) { return w[0].Write(b) }

// written returns what a command's stream has got.
func written(t *testing.T, w io.Writer) string {
	t.Helper()
	switch w := w.(type) {
	case *os.File:
		if w == nil {
			return ""
		}
		b, err := os.ReadFile(w.Name())
		require.NoError(t, err)
		return string(b)
	case *bytes.Buffer:
		return w.String()
	case sliceWriter:
		return w[0].String()
	}
	return ""
}
