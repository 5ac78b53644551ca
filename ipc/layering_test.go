package ipc_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const modulePath = "github.com/tandemipc/tandem"

// forEachImport calls fn for every import in every Go file of the module.
func forEachImport(t *testing.T, fn func(file, path string)) {
	t.Helper()
	root := ".."
	require.FileExists(t, filepath.Join(root, "go.mod"))
	files := 0
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if os.IsNotExist(err) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		files++
		file, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		for _, i := range f.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			fn(filepath.ToSlash(file), imported)
		}
		return nil
	}))
	require.Greater(t, files, 10)
}

// Whoever reviews memory safety reads the files named *_unsafe.go and no other.
func TestUnsafeInUnsafeFilesOnly(t *testing.T) {
	forEachImport(t, func(file, path string) {
		name := strings.TrimSuffix(strings.TrimSuffix(file, ".go"), "_test")
		if path == "unsafe" && !strings.HasSuffix(name, "_unsafe") {
			t.Errorf("%s imports unsafe: move what needs it to a file named *_unsafe.go", file)
		}
		if path == "C" {
			t.Errorf("%s uses cgo", file)
		}
	})
}

// Imports run downwards: the contract and the ring know nothing above them,
// and not each other; drivers know nothing of the engine.
func TestImportsRunDownwards(t *testing.T) {
	forbidden := map[string][]string{
		"ipc/":     {"ring", "drivers", "worker", "bench", "examples"},
		"ring/":    {"ipc", "drivers", "worker", "bench", "examples"},
		"drivers/": {"worker", "bench", "examples"},
		"worker/":  {"bench", "examples"},
	}
	forEachImport(t, func(file, path string) {
		if strings.HasSuffix(file, "_test.go") {
			return
		}
		inner, ours := strings.CutPrefix(path, modulePath+"/")
		if !ours {
			return
		}
		for dir, above := range forbidden {
			if !strings.HasPrefix(file, dir) {
				continue
			}
			for _, a := range above {
				if inner == a || strings.HasPrefix(inner, a+"/") {
					t.Errorf("%s imports %s", file, path)
				}
			}
		}
	})
}
