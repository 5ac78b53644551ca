// Package nomain has a test that starts worker.Self and no TestMain that calls worker.Main.
package nomain

import (
	"context"
	"os"
	"testing"

	"github.com/tandemipc/tandem/worker"
)

// TestSelf writes a line to the file that the environment names, and fails with the
// error of the start.
func TestSelf(t *testing.T) {
	f, err := os.OpenFile(os.Getenv("RUNS"), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("run\n"); err != nil {
		t.Fatal(err)
	}
	w, err := worker.Start(context.Background(), worker.Self("entry"))
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
}
