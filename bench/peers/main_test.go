package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/worker"
)

// calm is the program on a machine that has one state.
func calm() *suite.Program {
	p := program()
	p.Line = func() time.Duration { return 0 }
	return p
}

func TestMain(m *testing.M) {
	serveGoPlugin()
	serveFake()
	// Building them takes minutes, and the network.
	if os.Getenv(foreignVariable) == "" {
		noForeign = "tests build no programs of other languages without " + foreignVariable
	}
	worker.Main(suite.EntryName, func() error { return suite.Serve(register) })
	os.Exit(m.Run())
}

// Ours and all peers, with as little work as there can be.
func TestPeers(t *testing.T) {
	if ring.Supported() != nil {
		t.Skip("needs sealed shared memory")
	}
	path := filepath.Join(t.TempDir(), "report.json")
	var out, errs bytes.Buffer
	args := []string{"-rounds", "2", "-duration", "4ms", "-json", path, "-sizes", "0,64,100000", "-callers", "1,5", "call", "concurrent"}
	require.Zero(t, calm().Main(args, &out, &errs), errs.String())
	d, err := report.ReadJSON(path)
	require.NoError(t, err)
	subjects := len(suite.Drivers) + len(peers)
	require.Len(t, d.Results, subjects*3+subjects*3*2, out.String())
	for _, r := range d.Results {
		require.Positive(t, r.P50, "%+v", r)
		require.LessOrEqual(t, r.P50, r.Max)
		require.Equal(t, 2, r.Rounds)
	}
	require.NotContains(t, out.String(), "not measured")
}

// Streams of ours and of the peers that have them, also of items that are larger than what a
// library writes at once.
func TestStreams(t *testing.T) {
	if ring.Supported() != nil {
		t.Skip("needs sealed shared memory")
	}
	path := filepath.Join(t.TempDir(), "report.json")
	var out, errs bytes.Buffer
	args := []string{"-rounds", "2", "-duration", "4ms", "-json", path, "-sizes", "8,16,64,100000", "streams"}
	require.Zero(t, calm().Main(args, &out, &errs), errs.String())
	d, err := report.ReadJSON(path)
	require.NoError(t, err)
	require.Len(t, d.Results, 3*2*(len(suite.Drivers)+2), out.String())
	for _, r := range d.Results {
		require.Positive(t, r.OpsPerS, "%+v", r)
		require.Equal(t, 2, r.Rounds)
	}
	require.Equal(t, 1, bytes.Count(out.Bytes(), []byte("not measured: items of 8 B")), out.String())
}

// What speaks over connections, over a Unix socket and over the link.
func TestConnections(t *testing.T) {
	if ring.Supported() != nil {
		t.Skip("needs sealed shared memory")
	}
	path := filepath.Join(t.TempDir(), "report.json")
	var out, errs bytes.Buffer
	args := []string{"-rounds", "2", "-duration", "4ms", "-json", path, "-sizes", "0,64,100000", "connections"}
	require.Zero(t, calm().Main(args, &out, &errs), errs.String())
	d, err := report.ReadJSON(path)
	require.NoError(t, err)
	require.Len(t, d.Results, (3*len(speakers)+1)*(len(suite.Drivers)+1), out.String())
	for _, r := range d.Results {
		require.Positive(t, r.OpsPerS, "%+v", r)
		require.Equal(t, 2, r.Rounds)
	}
	require.NotContains(t, out.String(), "not measured")
}

// A payload that a peer does not take is left out, and said so.
func TestTooLarge(t *testing.T) {
	var out, errs bytes.Buffer
	require.Zero(t, calm().Main([]string{"-rounds", "1", "-duration", "1ms", "-sizes", "5Mi", "-subjects", "ttrpc,shmipc,drpc", "call"}, &out, &errs), errs.String())
	require.Contains(t, out.String(), "not measured: ttrpc with 5 MiB")
	require.Contains(t, out.String(), "drpc")
}

func TestUnknownPeer(t *testing.T) {
	w, err := suite.StartWay(context.Background(), suite.Way{Subject: "socket"}, 0)
	require.NoError(t, err)
	defer w.Close()
	_, err = serve.Call(context.Background(), w, serveRequest{"carrier pigeon", "x"})
	require.ErrorContains(t, err, `no peer "carrier pigeon"`)
}
