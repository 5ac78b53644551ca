package ipc_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// fleeting is the memory of a buffer, which is wiped when nobody has that any more.
type fleeting []byte

func (f fleeting) Bytes() []byte             { return f }
func (f fleeting) Region() (ipc.Region, int) { return nil, 0 }
func (f fleeting) Frozen() bool              { return false }
func (f fleeting) Free(bool)                 { clear(f) }

// What copies a buffer keeps it meanwhile, also if nobody else does.
func TestCopyKeepsForgottenBuffer(t *testing.T) {
	const size = 8 << 20
	for name, copied := range map[string]func(fleeting) []byte{
		"Clone": func(mem fleeting) []byte { return ipc.NewBuffer(mem).Clone() },
		"Freeze": func(mem fleeting) []byte {
			f, err := ipc.NewBuffer(mem).Freeze()
			require.NoError(t, err)
			defer f.Release()
			return f.Clone()
		},
	} {
		t.Run(name, func(t *testing.T) {
			stop := make(chan struct{})
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					select {
					case <-stop:
						return
					default:
						runtime.GC()
					}
				}
			}()
			defer func() { close(stop); <-stopped }()
			for range 20 {
				mem := make(fleeting, size)
				for i := range mem {
					mem[i] = 1
				}
				got := copied(mem)
				for i := range got {
					if got[i] != 1 {
						t.Fatalf("byte %d of %d was freed before it was copied", i, size)
					}
				}
			}
		})
	}
}
