package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// Totals are lines, words and bytes, as LC_ALL=C wc counts them.
type Totals struct{ Lines, Words, Bytes int64 }

func (t *Totals) add(more Totals) {
	t.Lines, t.Words, t.Bytes = t.Lines+more.Lines, t.Words+more.Words, t.Bytes+more.Bytes
}

// Counted is what a worker answers.
type Counted struct {
	Totals
	Machine string
}

// count is the contract. To count a text twice does no harm, so a piece may be sent again.
var count = ipc.NewMethod[[]byte, Counted]("count", ipc.WithIdempotent())

const workerName = "counter"

// serveWorker is the main function of a worker.
func serveWorker() error {
	s := worker.NewServer()
	machine := os.Getenv(machineEnv)
	worker.Handle(s, count, func(_ context.Context, text []byte) (Counted, error) { return Counted{countText(text), machine}, nil })
	return s.Serve(context.Background())
}

// countText counts a text. A word is a run of bytes without space that has a visible one.
func countText(text []byte) (t Totals) {
	t.Bytes = int64(len(text))
	word := false
	for _, b := range text {
		switch {
		case b == ' ' || '\t' <= b && b <= '\r':
			if b == '\n' {
				t.Lines++
			}
			if word {
				t.Words++
				word = false
			}
		case '!' <= b && b <= '~':
			word = true
		}
	}
	if word {
		t.Words++
	}
	return t
}

// pieceSize is how much of a file is sent at a time, in bytes, and more if it is one word.
const pieceSize = 256 << 10

// eachPiece calls f with the pieces of a file, none of which ends within a word. f keeps nothing of a piece.
func eachPiece(path string, f func(text []byte) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, pieceSize)
	var piece []byte
	for {
		b, err := r.Peek(pieceSize)
		if err != nil && err != io.EOF {
			return err
		}
		whole := err == io.EOF
		n := len(b)
		if space := bytes.LastIndexAny(b, " \t\n\v\f\r"); space >= 0 && !whole {
			n, whole = space+1, true
		}
		piece = append(piece, b[:n]...)
		if _, err := r.Discard(n); err != nil {
			return err
		}
		if whole && len(piece) > 0 {
			if err := f(piece); err != nil {
				return err
			}
			piece = piece[:0]
		}
		if err == io.EOF {
			return nil
		}
	}
}

// find returns the regular files below paths, and their size together.
func find(paths []string) (files []string, size int64, err error) {
	for _, path := range paths {
		err := filepath.WalkDir(path, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			files, size = append(files, path), size+info.Size()
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	return files, size, nil
}
