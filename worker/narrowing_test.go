//go:build unix

package worker_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A client can do what its driver can do, and the compiler knows.
func TestNarrowing(t *testing.T) {
	check := typeChecker(t, "github.com/tandemipc/tandem/worker", "github.com/tandemipc/tandem/drivers/shm", "github.com/tandemipc/tandem/drivers/socket")
	const program = `package p

import (
	"context"
	"os/exec"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/worker"
)

var _, _ = shm.Driver{}, socket.Driver{}

func f(ctx context.Context) {
	w, err := worker.Spawn(ctx, exec.Command("x"), %s)
	_ = err
	%s
}
`
	for _, c := range []struct{ driver, use, fault string }{
		{"socket.Driver{}", "_ = w.Channel().Reconnect(ctx)", ""},
		{"socket.Driver{}", "_ = w.Channel().Disconnect()", ""},
		{"shm.Driver{}", "_ = w.Channel().Process()", ""},
		{"shm.Driver{}", "_ = w.Channel().Reconnect(ctx)", "w.Channel().Reconnect undefined (type *shm.Channel has no field or method Reconnect)"},
		{"shm.Driver{}", "_ = w.Channel().Disconnect()", "w.Channel().Disconnect undefined (type *shm.Channel has no field or method Disconnect)"},
		{"shm.Driver{Path: \"x\"}", "_ = w", "unknown field Path in struct literal of type shm.Driver"},
		{"socket.Driver{RingSize: 1}", "_ = w", "unknown field RingSize in struct literal of type socket.Driver"},
	} {
		err := check(fmt.Sprintf(program, c.driver, c.use))
		if c.fault == "" {
			require.NoError(t, err, "%s %s", c.driver, c.use)
		} else {
			require.ErrorContains(t, err, c.fault)
		}
	}
}

// typeChecker returns a function that type-checks a file that may import the
// packages and what they depend on, from the compiler's export data.
func typeChecker(t *testing.T, packages ...string) func(src string) error {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-export", "-deps", "-json=ImportPath,Export"}, packages...)...).Output()
	require.NoError(t, err)
	exports := make(map[string]string)
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ ImportPath, Export string }
		if err := d.Decode(&p); err == io.EOF {
			break
		} else {
			require.NoError(t, err)
		}
		exports[p.ImportPath] = p.Export
	}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	return func(src string) error {
		file, err := parser.ParseFile(fset, "p.go", strings.TrimSpace(src), 0)
		if err != nil {
			return err
		}
		_, err = (&types.Config{Importer: imports}).Check("p", fset, []*ast.File{file}, nil)
		return err
	}
}
