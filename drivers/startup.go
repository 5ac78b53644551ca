package drivers

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/tandemipc/tandem/ipc"
)

// StartupEnv is the environment variable through which a host tells a worker
// how to reach it. It is read and removed when this package is initialised.
const StartupEnv = "TANDEM_STARTUP"

// maxStartup bounds the encoded startup data: Linux takes no single variable
// larger than 128 KiB.
const maxStartup = 120 << 10

// StartupData is what a host passes to a worker that it starts.
type StartupData struct {
	// Protocol is the version of the protocol that the host speaks.
	Protocol int `cbor:"1,keyasint"`
	// Driver is the name of the driver, and Import the path of the package that
	// has to be imported to link it in.
	Driver string `cbor:"2,keyasint"`
	Import string `cbor:"3,keyasint,omitempty"`
	// Codec is the name of the codec of methods that do not choose one.
	Codec string `cbor:"4,keyasint"`
	// Control is the number of the inherited descriptor of a stream socket to
	// the host. Hellos cross it.
	Control int `cbor:"5,keyasint"`
	// Address is where hosts can connect later, for drivers that have one.
	Address string `cbor:"6,keyasint,omitempty"`
	// DriverData has the driver's options for the worker.
	DriverData cbor.RawMessage `cbor:"7,keyasint,omitempty"`
	// HostPID is the process id of the host.
	HostPID int `cbor:"8,keyasint"`
	// Timeouts bound how long things may take.
	Timeouts Timeouts `cbor:"9,keyasint"`
	// MaxMessage is the largest message in bytes, header included, that the
	// host accepts and sends.
	MaxMessage int `cbor:"10,keyasint"`
	// Window is the window of both sides, in bytes; see [DefaultWindow].
	Window int `cbor:"19,keyasint"`
	// StreamWindow is how many bytes of items the worker takes of a stream that its reader
	// has not read; 0 is [DefaultStreamWindow].
	StreamWindow int `cbor:"20,keyasint,omitempty"`
	// UserData is the host's own, in CBOR. See [StartupData.Data].
	UserData cbor.RawMessage `cbor:"11,keyasint,omitempty"`
	// HostAlive is the number of an inherited descriptor, the reading end of a pipe
	// whose other end only the host has. See [StartupData.HostGone]. It is 0 if
	// the worker may outlive its host.
	HostAlive int `cbor:"12,keyasint,omitempty"`
	// Program is the number of an inherited descriptor of the program's file, if
	// the host has compared its checksum, or 0. It is closed when this package is
	// initialised.
	Program int `cbor:"13,keyasint,omitempty"`

	// Resume is how many bytes of answers the worker keeps for a host that
	// disconnects and comes back. See worker.WithResume.
	Resume int `cbor:"16,keyasint,omitempty"`

	// Depth is how many processes in a row, up to this one, were each started by a
	// process that had not served its own host yet. It is 1 for the worker of a host
	// that is no worker.
	Depth int `cbor:"17,keyasint,omitempty"`

	// Inodes has the inode of each inherited descriptor, as its host knows it, by the
	// descriptor's number. Only Linux has inodes that say which socket or pipe it is.
	Inodes map[int]uint64 `cbor:"18,keyasint,omitempty"`

	taken    atomic.Bool // the control descriptor
	hostGone chan struct{}
}

// Timeouts bound how long things may take. 0 means no timeout.
type Timeouts struct {
	// Start bounds the time from starting a process to its hello. 10 s by default.
	Start time.Duration `cbor:"1,keyasint"`
	// Host bounds how long a worker waits for a host. 30 s by default.
	Host time.Duration `cbor:"2,keyasint"`
	// Call bounds a call. 5 min by default. Methods and calls can override it. A
	// request that does not say how long its caller waits has this timeout.
	Call time.Duration `cbor:"3,keyasint"`
	// Grace bounds how long either side waits for calls to finish when it
	// closes. 5 s by default.
	Grace time.Duration `cbor:"4,keyasint"`
}

// DefaultTimeouts returns the timeouts that hold where none are given.
func DefaultTimeouts() Timeouts {
	return Timeouts{Start: 10 * time.Second, Host: 30 * time.Second, Call: 5 * time.Minute, Grace: 5 * time.Second}
}

// Data decodes what the host passed with worker.WithData into v, a pointer.
// It fails if the host passed nothing.
func (s *StartupData) Data(v any) error {
	if len(s.UserData) == 0 {
		return errors.New("tandem: the host passed no user data")
	}
	if err := ipc.CBOR.Decode(s.UserData, v); err != nil {
		return fmt.Errorf("tandem: decode the host's user data: %w", err)
	}
	return nil
}

// TakeControl returns the inherited end of the control socket, which the caller
// then owns. It can be taken once.
func (s *StartupData) TakeControl() (*os.File, error) {
	if !s.taken.CompareAndSwap(false, true) {
		return nil, errors.New("tandem: the link to the host is in use already: a worker serves it once")
	}
	f := os.NewFile(uintptr(s.Control), "control")
	if f == nil {
		return nil, fmt.Errorf("tandem: control descriptor %d is invalid", s.Control)
	}
	return f, nil
}

// HostGone returns a channel that is closed when the host's process has ended,
// however it ended and whatever has become of the link. It is nil for a worker
// that may outlive its host.
func (s *StartupData) HostGone() <-chan struct{} { return s.hostGone }

// Refuse tells the host, in place of a hello, why this worker will not serve.
func (s *StartupData) Refuse(reason string) error { return s.RefuseFor(errors.New(reason)) }

// RefuseFor is Refuse for an error. If it wraps [ipc.ErrExhausted], then so does the
// host's.
func (s *StartupData) RefuseFor(reason error) error {
	f, err := s.TakeControl()
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(AppendReason(nil, reason))
	return err
}

// Env encodes s as an environment entry "NAME=value" for the worker.
func (s *StartupData) Env() (string, error) {
	b, err := ipc.CBOR.Append(nil, s)
	if err != nil {
		return "", fmt.Errorf("tandem: encode startup data: %w", err)
	}
	v := StartupEnv + "=" + base64.RawStdEncoding.EncodeToString(b)
	if len(v) > maxStartup {
		return "", fmt.Errorf("tandem: startup data of %d bytes (user data %d): an environment variable takes at most %d; pass a file's name instead",
			len(v), len(s.UserData), maxStartup)
	}
	return v, nil
}

// Startup returns what the host passed to this process, or nil if no host
// started it. The result is shared and must not be changed.
func Startup() *StartupData {
	s, _ := LoadStartup()
	return s
}

// LoadStartup is like [Startup] but also says if there was startup data that
// could not be read.
func LoadStartup() (*StartupData, error) { return loadStartup() }

var loadStartup = sync.OnceValues(func() (*StartupData, error) {
	v, ok := os.LookupEnv(StartupEnv)
	if !ok {
		return nil, nil
	}
	// Children of this process are not workers of its host.
	if err := os.Unsetenv(StartupEnv); err != nil {
		return nil, fmt.Errorf("tandem: remove %s from the environment: %w", StartupEnv, err)
	}
	s, err := parseStartup(v)
	if err != nil {
		return nil, err
	}
	if err := s.inherit(); err != nil {
		return nil, err
	}
	return s, nil
})

// parseStartup decodes the value of the variable.
func parseStartup(v string) (*StartupData, error) {
	b, err := base64.RawStdEncoding.DecodeString(v)
	if err != nil {
		return nil, fmt.Errorf("tandem: %s is not base64: %w", StartupEnv, err)
	}
	s := new(StartupData)
	if err := ipc.CBOR.Decode(b, s); err != nil {
		return nil, fmt.Errorf("tandem: %s is not startup data: %w", StartupEnv, err)
	}
	return s, nil
}

// Reading at once leaves no time in which a child could inherit the variable
// or the descriptor.
func init() { _, _ = loadStartup() }
