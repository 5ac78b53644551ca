package drivers_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A driver logs to the logger that it is given, never to that of the program.
func TestDriversDoNotUseTheDefaultLogger(t *testing.T) {
	defaults := strings.Fields("Default Log LogAttrs Debug DebugContext Info InfoContext Warn WarnContext Error ErrorContext With")
	files := 0
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == "drivertest" || d.Name() == "nats" { // which is no driver: its users give it a logger, or none
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			return err
		}
		files++
		for _, i := range f.Imports {
			if imported, _ := strconv.Unquote(i.Path.Value); imported == "log" {
				t.Errorf("%s imports log", path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "slog" && slices.Contains(defaults, sel.Sel.Name) {
					t.Errorf("%v uses slog.%s: use the logger of Command or Open", fset.Position(n.Pos()), sel.Sel.Name)
				}
			}
			return true
		})
		return nil
	}))
	require.Greater(t, files, 30)
}
