package report

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUpdateDocument(t *testing.T) {
	d := document()
	more := d.Results[2]
	more.Bytes, more.P50 = new(4096), 900
	p := Page{Env: d.Env, Verdicts: verdicts([]Target{{What: "a call", Unit: "x", Bar: 2, Aim: 1.1, Measured: 1.25, Low: 1, High: 1.5, Met: "bar"}}), Sections: []Section{{Name: "call", Results: []Result{d.Results[2], more, d.Results[3]}}}}
	path := filepath.Join(t.TempDir(), "doc.md")
	text := `# Doc
<!-- figures: bench environment -->
<!-- end of figures -->
Between.
<!-- figures: bench call p50 raw -->
old
<!-- end of figures -->
<!-- figures: bench call list=p50;MB/s 4 KiB -->
<!-- end of figures -->
<!-- figures: bench targets -->
<!-- end of figures -->
<!-- figures: bench rate p50 -->
not measured
<!-- end of figures -->
<!-- figures: peers call p50 -->
another's
<!-- end of figures -->
![a chart](img/round-trip-by-size.svg)
`
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	for range 2 { // the second time changes nothing
		require.NoError(t, UpdateDocument(path, "bench", p))
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		golden(t, "document.md", got)
	}
	// A run that has left out some targets leaves the table as it was.
	p.Verdicts.All, p.Verdicts.Judged, p.Verdicts.Asked = false, nil, nil
	require.NoError(t, UpdateDocument(path, "bench", p))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	golden(t, "document.md", got)

	require.FileExists(t, filepath.Join(filepath.Dir(path), "img", "round-trip-by-size.svg"))
	require.ErrorContains(t, UpdateDocument(path, "other", p), "no block of figures")
	require.Error(t, UpdateDocument(path+"x", "bench", p))
}

// A subject without a codec has none in its name, beside those that have one each.
func TestPivotWithoutCodec(t *testing.T) {
	var b bytes.Buffer
	pivot(&b, []Result{{Subject: "ring", OpsPerS: 3e6}, {Subject: "shm", Codec: "fixed", OpsPerS: 2e6}, {Subject: "socket", Codec: "raw", OpsPerS: 1e6}}, "ops/s", regexp.MustCompile(""))
	for _, row := range []string{"| ring | 3 M |", "| shm (fixed) | 2 M |", "| socket (raw) | 1 M |"} {
		require.Contains(t, b.String(), row)
	}
}

func TestTargetUnits(t *testing.T) {
	for unit, want := range map[string]string{"x": "31.2x", "ns": "31 ns", "/s": "31.2/s", "s": "31.2 s", "MB": "31.2 MB", "": "31.2"} {
		require.Equal(t, want, (&Target{Unit: unit}).value(31.2), unit)
	}
	require.Equal(t, "40\u00a0MB and 64\u00a0KiB", unbroken("40 MB and 64 KiB"))
}
