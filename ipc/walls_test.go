package ipc_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const modulePath = "github.com/tandemipc/tandem"

// forEachFile calls fn for every Go file of the repository, with its path from the root.
func forEachFile(t *testing.T, fn func(file string)) {
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
		if strings.HasSuffix(path, ".go") {
			file, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			files++
			fn(filepath.ToSlash(file))
		}
		return nil
	}))
	require.Greater(t, files, 10)
}

// forEachImport calls fn for every import in every Go file of the repository.
func forEachImport(t *testing.T, fn func(file, path string)) {
	t.Helper()
	forEachFile(t, func(file string) {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", file), nil, parser.ImportsOnly)
		if os.IsNotExist(err) {
			return // removed meanwhile
		}
		require.NoError(t, err)
		for _, i := range f.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			require.NoError(t, err)
			fn(file, imported)
		}
	})
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

// walls says which packages of this repository each package may import. Where a name
// ends in /... it stands for all packages below, too. Tests may import more, for they
// use the library as a user does.
var walls = map[string][]string{
	"ipc":  {"ring/arena", "ring/broadcast", "ring/latest", "ring/sealed"},
	"ring": {"ring/bulk", "ring/fdpass", "ring/internal/...", "ring/sealed"},

	"ring/arena":           {"ring/sealed"},
	"ring/broadcast":       {"ring", "ring/bulk", "ring/internal/...", "ring/sealed"},
	"ring/bulk":            {},
	"ring/fdpass":          {},
	"ring/gather":          {"ring"},
	"ring/internal/shared": {"ring/bulk"},
	"ring/internal/wait":   {},
	"ring/latest":          {"ring/internal/shared"},
	"ring/sealed":          {},

	"ipc/arrowipc":   {"ipc"},
	"ipc/protocodec": {"ipc"},

	"drivers":                     {"ipc"},
	"drivers/drivertest":          {"ipc", "drivers", "drivers/drivertest/leaktest"},
	"drivers/drivertest/leaktest": {},
	"drivers/internal/peercred":   {},
	"drivers/internal/sendlock":   {},
	"drivers/internal/sockfile":   {},
	"drivers/internal/rendezvous": {"ipc", "drivers", "drivers/internal/..."},
	"drivers/internal/reserve":    {"drivers/internal/process"},
	"drivers/internal/process":    {"ipc", "drivers", "ring/fdpass"},
	"drivers/internal/service":    {"ipc", "drivers", "ring/fdpass", "drivers/internal/process", "drivers/internal/rendezvous"},
	"drivers/shm":                 {"ipc", "ring", "ring/fdpass", "ring/sealed", "drivers", "drivers/internal/..."},
	"drivers/socket":              {"ipc", "ring/fdpass", "drivers", "drivers/internal/..."},

	"worker/internal/wait":    {},
	"worker/internal/queue":   {"worker/internal/wait"},
	"worker/internal/retry":   {"ipc"},
	"worker/internal/restart": {"ipc", "drivers"},
	"worker/internal/command": {},
	"worker/internal/pipe":    {"ipc", "drivers"},
	"worker/internal/chain":   {"ipc"},
	"worker/internal/memory":  {"ipc"},
	"worker/internal/engine":  {"ipc", "ring/bulk", "drivers", "worker/internal/chain", "worker/internal/memory", "worker/internal/retry", "worker/internal/wait"},
	"worker":                  {"ipc", "drivers", "drivers/socket", "worker/internal/..."},
	"worker/intercept":        {"ipc"},
	"worker/netconn":          {"ipc", "worker"},
	"worker/otel":             {"ipc", "worker/pipeline"},
	"worker/prometheus":       {"ipc", "worker/intercept", "worker/pipeline", "worker/pool"},

	"worker/pool/internal/scheduler": {"ipc", "drivers"},
	"worker/pipeline":                {"ipc", "worker", "worker/pool"},
	"worker/pool": {
		"ipc", "drivers", "worker", "worker/pool/internal/scheduler",
		"worker/internal/chain", "worker/internal/command", "worker/internal/memory", "worker/internal/queue", "worker/internal/restart", "worker/internal/retry", "worker/internal/wait",
	},

	"drivers/nats/...": {"ipc", "drivers", "worker", "worker/pipeline", "drivers/nats/..."},

	// What a user could write.
	"bench/...":    {"ipc", "ipc/protocodec", "ring/...", "drivers/...", "worker", "worker/netconn", "worker/pipeline", "worker/pool", "bench/..."},
	"examples/...": {"ipc", "ipc/arrowipc", "ring/...", "drivers/...", "worker", "worker/pipeline", "worker/pool", "examples/..."},
}

// covers reports whether pattern, as in walls, stands for a package.
func covers(pattern, pkg string) bool {
	if dir, all := strings.CutSuffix(pattern, "/..."); all {
		return pkg == dir || strings.HasPrefix(pkg, dir+"/")
	}
	return pkg == pattern
}

// Imports run downwards, as the picture in docs/architecture.md shows: the contract and
// the ring know nothing above them, and not each other, but for the memory that both use; drivers know nothing of calls;
// the engine knows nothing of processes; the pool sees of package worker what users see.
func TestWalls(t *testing.T) {
	used := make(map[string]bool)
	forEachImport(t, func(file, path string) {
		if strings.HasSuffix(file, "_test.go") {
			return
		}
		inner, ours := strings.CutPrefix(path, modulePath+"/")
		pkg := filepath.ToSlash(filepath.Dir(file))
		for pattern, allowed := range walls {
			if !covers(pattern, pkg) {
				continue
			}
			used[pattern] = true
			if ours && !slices.ContainsFunc(allowed, func(a string) bool { return covers(a, inner) }) {
				t.Errorf("%s imports %s, which its wall does not allow", file, path)
			}
			return
		}
		if ours {
			t.Errorf("%s is in a package without a wall: add %s to the table", file, pkg)
		}
	})
	for pattern := range walls {
		if !used[pattern] {
			t.Errorf("no package is %s", pattern)
		}
	}
}

// Whoever follows a file's name in the documents finds the file.
func TestDocumentsNameFilesThatExist(t *testing.T) {
	var files []string
	forEachFile(t, func(file string) { files = append(files, "/"+file) })
	names := regexp.MustCompile(`[\w./]+\.go\b`)
	for _, doc := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/memory-model.md", "docs/performance.md", "docs/protocol.md", "docs/lifecycle.md", "docs/testing.md", "docs/interceptors.md", "docs/arrow.md", "docs/netconn.md", "docs/topics.md", "docs/services.md", "docs/buffers.md"} {
		text, err := os.ReadFile(filepath.Join("..", doc))
		require.NoError(t, err)
		for _, name := range names.FindAllString(string(text), -1) {
			if name = strings.TrimPrefix(name, "../"); strings.HasPrefix(name, "_") {
				continue // the end of many names
			}
			if !slices.ContainsFunc(files, func(f string) bool { return strings.HasSuffix(f, "/"+name) }) {
				t.Errorf("%s names %s, which does not exist", doc, name)
			}
		}
	}
}
