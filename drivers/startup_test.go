//go:build unix

package drivers_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

func init() {
	children["report"] = func() { reportChild(true) }
	children["grandchild"] = func() { reportChild(false) }
	children["refuse"] = func() {
		if err := drivers.Startup().Refuse("not today"); err != nil {
			fmt.Println(err)
		}
		fmt.Println(drivers.Startup().Refuse("again"))
	}
}

// childReport is what a process says about its startup data.
type childReport struct {
	Startup    *drivers.StartupData
	Err        string
	UserData   map[string]int
	Env        bool // the variable is set
	Control    bool // the descriptor is open and a socket
	Next       bool // the one after it is open
	Grandchild *childReport
}

// controlFD is the number of the control descriptor in these tests.
const controlFD = 20

func reportChild(withGrandchild bool) {
	var r childReport
	s, err := drivers.LoadStartup()
	if err != nil {
		r.Err = err.Error()
	}
	r.Startup = drivers.Startup()
	if s != nil {
		_ = s.Data(&r.UserData)
	}
	_, r.Env = os.LookupEnv(drivers.StartupEnv)
	// The runtime of a grandchild may have got the number for a file of its own.
	file, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", controlFD))
	r.Control = strings.HasPrefix(file, "socket:")
	_, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", controlFD+1))
	r.Next = err == nil
	if withGrandchild {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"=grandchild")
		out, err := cmd.Output()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		r.Grandchild = new(childReport)
		if err := json.Unmarshal(out, r.Grandchild); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(r)
}

// runChild runs a child with the given environment entries and, as controlFD,
// one end of a socket pair. It returns what it printed, and the other end.
func runChild(t *testing.T, name string, env ...string) (string, *os.File) {
	t.Helper()
	return runChildWith(t, name, nil, env...)
}

// runChildWith gives the child more files, at the numbers after controlFD.
func runChildWith(t *testing.T, name string, more []*os.File, env ...string) (string, *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { ours.Close() })
	defer theirs.Close()
	syscall.CloseOnExec(fds[0])
	syscall.CloseOnExec(fds[1])

	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	// A program that was built with -race sleeps for a second when it ends.
	cmd.Env = append(append(os.Environ(), childEnv+"="+name, "GORACE=atexit_sleep_ms=0"), env...)
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	for range controlFD - 3 {
		cmd.ExtraFiles = append(cmd.ExtraFiles, null)
	}
	cmd.ExtraFiles = append(append(cmd.ExtraFiles, theirs), more...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", out)
	return string(out), ours
}

func childReports(t *testing.T, env ...string) (r childReport) {
	t.Helper()
	out, _ := runChild(t, "report", env...)
	require.NoError(t, json.Unmarshal([]byte(out), &r), "%s", out)
	return r
}

func startupData(t *testing.T) *drivers.StartupData {
	t.Helper()
	user, err := ipc.CBOR.Append(nil, map[string]int{"answer": 42})
	require.NoError(t, err)
	return &drivers.StartupData{
		Protocol: drivers.ProtocolVersion, Driver: "shm", Import: "example.com/shm", Codec: "json", Control: controlFD,
		Address: "/run/x", DriverData: cbor.RawMessage{0x01}, HostPID: os.Getpid(), MaxMessage: 1 << 20, UserData: user,
		Timeouts: drivers.Timeouts{Start: 1, Host: 2, Call: 3 * time.Hour, Grace: 4},
	}
}

func TestStartupCrosses(t *testing.T) {
	s := startupData(t)
	env, err := s.Env()
	require.NoError(t, err)
	r := childReports(t, env)
	require.NotNil(t, r.Startup)
	assert.Empty(t, r.Err)
	want, err := json.Marshal(s)
	require.NoError(t, err)
	got, err := json.Marshal(r.Startup)
	require.NoError(t, err)
	assert.JSONEq(t, string(want), string(got))
	assert.Equal(t, map[string]int{"answer": 42}, r.UserData)

	assert.False(t, r.Env, "the variable is removed")
	g := r.Grandchild
	assert.Nil(t, g.Startup, "a child of a worker is not a worker")
	assert.False(t, g.Env)
	if _, err := os.Stat("/proc/self/fd"); err == nil {
		assert.True(t, r.Control)
		assert.False(t, g.Control, "the control descriptor is not inherited")
	}
}

func TestStartupAbsent(t *testing.T) {
	assert.Nil(t, drivers.Startup())
	s, err := drivers.LoadStartup()
	assert.Nil(t, s)
	assert.NoError(t, err)
	r := childReports(t)
	assert.Nil(t, r.Startup)
	assert.Empty(t, r.Err)
}

func TestStartupCorrupted(t *testing.T) {
	env, err := startupData(t).Env()
	require.NoError(t, err)
	for value, want := range map[string]string{
		"":                   "is not startup data",
		"not base64!":        "is not base64",
		"AAAA":               "is not startup data",
		"/w":                 "is not startup data",
		env[len(env)/2:]:     "tandem: TANDEM_STARTUP is not ",
		env[15 : len(env)-4]: "is not startup data",
	} {
		r := childReports(t, drivers.StartupEnv+"="+value)
		assert.Nil(t, r.Startup)
		assert.Contains(t, r.Err, want, "%q", value)
		assert.False(t, r.Env)
		assert.False(t, r.Grandchild.Env)
	}
}

func TestStartupTooLarge(t *testing.T) {
	s := startupData(t)
	var err error
	s.UserData, err = ipc.CBOR.Append(nil, make([]byte, 80<<10))
	require.NoError(t, err)
	env, err := s.Env()
	require.NoError(t, err, "80 KiB fit")
	r := childReports(t, env)
	require.NotNil(t, r.Startup)
	assert.Len(t, r.Startup.UserData, len(s.UserData))

	s.UserData, err = ipc.CBOR.Append(nil, make([]byte, 100<<10))
	require.NoError(t, err)
	_, err = s.Env()
	assert.ErrorContains(t, err, fmt.Sprintf("user data %d", len(s.UserData)))
	assert.ErrorContains(t, err, "an environment variable takes at most 122880")
	assert.ErrorContains(t, err, "pass a file's name instead")
}

func TestStartupData(t *testing.T) {
	type config struct {
		Name string
		Rate float64
		Tags map[string][]int
	}
	for _, c := range []struct{ in, out any }{
		{"text", new(string)},
		{-5, new(int)},
		{[]string{"a", "b"}, new([]string)},
		{map[string]bool{"a": true}, new(map[string]bool)},
		{config{"n", 0.5, map[string][]int{"x": {1, 2}}}, new(config)},
		{[]byte{1, 2}, new([]byte)},
	} {
		var s drivers.StartupData
		var err error
		s.UserData, err = ipc.CBOR.Append(nil, c.in)
		require.NoError(t, err)
		require.NoError(t, s.Data(c.out))
		again, err := ipc.CBOR.Append(nil, c.out)
		require.NoError(t, err)
		assert.Equal(t, []byte(s.UserData), again, "%T", c.in)
	}

	var s drivers.StartupData
	assert.EqualError(t, s.Data(new(string)), "tandem: the host passed no user data")
	s.UserData = cbor.RawMessage{0x01}
	assert.ErrorContains(t, s.Data(new(string)), "decode the host's user data")
}

func TestRefuse(t *testing.T) {
	env, err := startupData(t).Env()
	require.NoError(t, err)
	out, ours := runChild(t, "refuse", env)
	assert.Equal(t, "tandem: the link to the host is in use already: a worker serves it once", strings.TrimSpace(out))
	conn, err := net.FileConn(ours)
	require.NoError(t, err)
	defer conn.Close()
	_, err = drivers.ReadHello(conn)
	var refused *ipc.RefusedError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, "not today", refused.Reason)
}

func TestTakeControl(t *testing.T) {
	s := &drivers.StartupData{Control: -1}
	_, err := s.TakeControl()
	assert.EqualError(t, err, "tandem: control descriptor -1 is invalid")
	_, err = s.TakeControl()
	assert.ErrorContains(t, err, "a worker serves it once")
}

func TestDefaultLimits(t *testing.T) {
	assert.Equal(t, drivers.Timeouts{Start: 10 * time.Second, Host: 30 * time.Second, Call: 5 * time.Minute, Grace: 5 * time.Second}, drivers.DefaultTimeouts())
}

// Files of somebody else's are neither read nor closed.
func TestStartupOfStrangeDescriptors(t *testing.T) {
	file := func(f *os.File, err error) *os.File {
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	socket := func(domain, kind int) *os.File {
		fd, err := syscall.Socket(domain, kind, 0)
		if err == nil {
			syscall.CloseOnExec(fd)
		}
		return file(os.NewFile(uintptr(fd), "socket"), err)
	}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	pipe := file(r, nil)
	_, err = file(w, nil).WriteString("not yours")
	require.NoError(t, err)
	regular := file(os.Open(os.Args[0]))
	directory := file(os.Open("/"))

	const number = controlFD + 1
	for _, c := range []struct {
		what string
		set  func(*drivers.StartupData)
		is   map[*os.File]string
	}{
		{"control socket", func(s *drivers.StartupData) { s.Control = number }, map[*os.File]string{
			pipe: "a pipe", regular: "a regular file", directory: "a directory",
			socket(syscall.AF_INET, syscall.SOCK_STREAM): "a socket that is no Unix socket", socket(syscall.AF_UNIX, syscall.SOCK_DGRAM): "a Unix socket that is no stream socket",
		}},
		{"host-alive pipe", func(s *drivers.StartupData) { s.HostAlive = number }, map[*os.File]string{
			regular: "a regular file", socket(syscall.AF_UNIX, syscall.SOCK_STREAM): "a socket",
		}},
		{"program's file", func(s *drivers.StartupData) { s.Program = number }, map[*os.File]string{pipe: "a pipe", directory: "a directory"}},
		{"host-alive pipe", func(s *drivers.StartupData) { s.HostAlive, s.Inodes = number, map[int]uint64{number: 1} }, map[*os.File]string{pipe: "another pipe"}},
	} {
		for f, is := range c.is {
			s := startupData(t)
			c.set(s)
			env, err := s.Env()
			require.NoError(t, err)
			out, _ := runChildWith(t, "report", []*os.File{f}, env)
			var r childReport
			require.NoError(t, json.Unmarshal([]byte(out), &r), "%s", out)
			assert.Nil(t, r.Startup)
			assert.Contains(t, r.Err, fmt.Sprintf("tandem: descriptor %d, the %s, is %s", number, c.what, is))
			if _, err := os.Stat("/proc/self/fd"); err == nil {
				assert.True(t, r.Next, "it is still open")
			}
		}
	}
	b := make([]byte, 100)
	n, err := pipe.Read(b)
	require.NoError(t, err)
	assert.Equal(t, "not yours", string(b[:n]))
}
