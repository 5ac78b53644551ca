package drivers

import (
	"encoding/base64"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// FuzzStartup decodes what may stand in the environment, and looks at the descriptors that
// it names. What can be decoded can be passed on, and means the same.
func FuzzStartup(f *testing.F) {
	data, err := ipc.CBOR.Append(nil, map[string]int{"a": 1})
	require.NoError(f, err)
	for _, s := range []*StartupData{
		{},
		{Protocol: ProtocolVersion, Driver: "shm", Codec: "cbor", Control: 3, HostAlive: 4, HostPID: 1, Timeouts: DefaultTimeouts(), MaxMessage: DefaultMaxMessage},
		{Driver: "socket", Address: "/run/s", Control: math.MinInt, HostAlive: math.MaxInt, Program: math.MaxInt - 5, DriverData: data, UserData: data},
		{Control: math.MaxInt - 1<<31, HostAlive: 2, Program: 1, Depth: math.MaxInt, Resume: math.MinInt, Inodes: map[int]uint64{-1: 1, 2: 2, math.MaxInt: math.MaxUint64}},
	} {
		entry, err := s.Env()
		require.NoError(f, err)
		_, v, _ := strings.Cut(entry, "=")
		f.Add(v)
		f.Add(v[:len(v)/2])
		f.Add(v + "=")
	}
	f.Add("")
	f.Add("oA")
	f.Add(base64.RawStdEncoding.EncodeToString([]byte{0xa1, 18, 0xbf, 0xff}))
	f.Fuzz(func(t *testing.T, v string) {
		s, err := parseStartup(v)
		if err != nil {
			require.ErrorContains(t, err, StartupEnv)
			return
		}
		for _, number := range []int{s.Control, s.HostAlive, s.Program} {
			if err := s.check(number, "descriptor", kindSocket); number <= 2 || number > math.MaxInt32 {
				require.Error(t, err)
			}
		}
		_ = s.Data(new(map[string]int))
		entry, err := s.Env()
		if err != nil {
			return // what is decoded may be longer
		}
		_, again, _ := strings.Cut(entry, "=")
		second, err := parseStartup(again)
		require.NoError(t, err)
		require.Equal(t, s, second)
	})
}
