//go:build !linux

package pool

import "github.com/tandemipc/tandem/ipc"

func residentMemory(int) (int64, error) { return 0, ipc.ErrUnsupported }
