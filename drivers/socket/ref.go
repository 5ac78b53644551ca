package socket

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/sockfile"
	"github.com/tandemipc/tandem/ipc"
)

// A Ref names one run of a worker, so that another process can take it over with
// [Attach]. With it Attach proves that the process that answers is that run. It is a plain
// value that may be stored and passed on: as text, in JSON and in CBOR. It is no
// secret, and of no use to other users.
type Ref struct {
	// Path is where the worker listens, absolute, or "" if other processes cannot
	// find it: then the Ref has no text. Private: the directory of the socket was
	// made for it alone.
	Path    string `cbor:"1,keyasint"`
	Private bool   `cbor:"2,keyasint,omitempty"`
	// PID and StartTime name the process, Nonce the run of its program, and UID
	// its user. PID is 0 if the worker's id is not known to the host: then the Ref
	// has no text. That is so if a wrapper starts the worker in a pid namespace.
	PID       int    `cbor:"3,keyasint"`
	StartTime uint64 `cbor:"4,keyasint"`
	Nonce     uint64 `cbor:"5,keyasint"`
	UID       int    `cbor:"6,keyasint"`
	// Program is what errors call the worker.
	Program string `cbor:"7,keyasint,omitempty"`
	// Codec, MaxMessage, Window and Timeouts are what host and worker have agreed on.
	Codec      string           `cbor:"8,keyasint"`
	MaxMessage int              `cbor:"9,keyasint"`
	Window     int              `cbor:"13,keyasint"`
	Timeouts   drivers.Timeouts `cbor:"10,keyasint"`
	// Detached says whether the worker outlives its host.
	Detached bool `cbor:"11,keyasint,omitempty"`
	// Resume is how many bytes of answers the worker keeps while no host is
	// connected; see worker.WithResume.
	Resume int `cbor:"12,keyasint,omitempty"`
}

var (
	// ErrStale: there is no worker any more that the [Ref] names. It wraps
	// [ipc.ErrPeerGone].
	ErrStale = fmt.Errorf("tandem: socket: stale reference: %w", ipc.ErrPeerGone)
	// ErrWrongPeer: another process than the worker listens or answers in its place.
	ErrWrongPeer = errors.New("tandem: socket: wrong peer")
	// ErrBadRef: a [Ref], or its text, cannot name a worker.
	ErrBadRef = errors.New("tandem: socket: not a reference of a worker")
)

const (
	refPrefix = "tandem:"
	// maxRef bounds the text of a Ref, in bytes, and maxProgram the name in it.
	maxRef     = 2048
	maxProgram = 256
)

// MarshalText encodes r as one printable word of less than 2 KiB.
func (r Ref) MarshalText() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	type plain Ref // without methods
	b, err := ipc.CBOR.Append(nil, plain(r))
	if err != nil {
		return nil, fmt.Errorf("tandem: socket: encode a reference: %w", err)
	}
	return base64.RawURLEncoding.AppendEncode([]byte(refPrefix), b), nil
}

// UnmarshalText decodes what MarshalText has made. The error wraps [ErrBadRef].
func (r *Ref) UnmarshalText(text []byte) error {
	encoded, ok := strings.CutPrefix(string(text[:min(len(text), maxRef+1)]), refPrefix)
	switch {
	case !ok:
		return fmt.Errorf("%w: it begins with %.20q, expected %q", ErrBadRef, text, refPrefix)
	case len(text) > maxRef:
		return fmt.Errorf("%w: text of %d bytes, largest allowed %d", ErrBadRef, len(text), maxRef)
	}
	b, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadRef, err)
	}
	type plain Ref
	var p plain
	if err := ipc.CBOR.Decode(b, &p); err != nil {
		return fmt.Errorf("%w: %w", ErrBadRef, err)
	}
	if err := Ref(p).check(); err != nil {
		return err
	}
	*r = Ref(p)
	return nil
}

// String returns the text of r, or says what is wrong with it.
func (r Ref) String() string {
	b, err := r.MarshalText()
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// ParseRef decodes the text of a Ref. The error wraps [ErrBadRef].
func ParseRef(text string) (Ref, error) {
	var r Ref
	err := r.UnmarshalText([]byte(text))
	return r, err
}

// check returns an error that wraps ErrBadRef if r cannot name a worker.
func (r Ref) check() error {
	var what string
	switch {
	case r.Path == "":
		what = `path "": the worker is not detached, and was given no Driver.Path`
	case !filepath.IsAbs(r.Path) || filepath.Dir(r.Path) == r.Path || len(r.Path) > sockfile.MaxPath || strings.ContainsRune(r.Path, 0):
		what = fmt.Sprintf("path %.*q", sockfile.MaxPath+1, r.Path)
	case r.PID == 0:
		what = "process id 0: a process between host and worker has started the worker in a pid namespace of its own"
	case r.PID <= 1 || r.PID > math.MaxInt32:
		what = fmt.Sprintf("process id %d", r.PID)
	case r.StartTime == 0:
		what = "start time 0"
	case r.Nonce == 0:
		what = "nonce 0"
	case r.UID < 0 || int64(r.UID) > math.MaxUint32:
		what = fmt.Sprintf("user %d", r.UID)
	case r.Codec == "" || len(r.Codec) > maxProgram:
		what = fmt.Sprintf("codec %.20q", r.Codec)
	case len(r.Program) > maxProgram:
		what = fmt.Sprintf("program %.20q", r.Program)
	case r.MaxMessage < drivers.MinMaxMessage || r.MaxMessage > drivers.MaxMaxMessage:
		what = fmt.Sprintf("largest message of %d bytes", r.MaxMessage)
	case r.Window < drivers.MinWindow || r.Window > drivers.MaxWindow:
		what = fmt.Sprintf("window of %d bytes", r.Window)
	case r.Timeouts.Start < 0 || r.Timeouts.Host < 0 || r.Timeouts.Call < 0 || r.Timeouts.Grace < 0 || r.Resume < 0:
		what = "a negative limit"
	default:
		return nil
	}
	return fmt.Errorf("%w: %s", ErrBadRef, what)
}

// checkOwner returns an error if this process's user cannot be the worker's.
func (r Ref) checkOwner() error {
	if me := os.Geteuid(); me != 0 && me != r.UID {
		return fmt.Errorf("%w: the worker belongs to user %d, this process to user %d", ErrWrongPeer, r.UID, me)
	}
	return nil
}
