package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

const (
	blockSize = 64 << 10
	maxBlock  = 1 << 20 // bytes, of a block that has few ends of lines
)

// find returns the regular files in and below paths, in order; without paths those of Go's own source.
func find(ctx context.Context, paths []string) (files []string, err error) {
	if len(paths) == 0 {
		root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
		if err != nil {
			return nil, fmt.Errorf("no PATH is given, and no Go installation found: %w", err)
		}
		paths = []string{filepath.Join(strings.TrimSpace(string(root)), "src")}
	}
	for _, path := range paths {
		path, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, err
		}
		err = filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				files = append(files, name)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// blocks yields the contents of files in blocks that end with a line. Each is valid until the next one.
// Files that end with .gz or .zst are unpacked.
func blocks(files []string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var block []byte
		for _, name := range files {
			on := true
			err := readFile(name, func(r *bufio.Reader) error {
				for {
					var err error
					if block, err = nextBlock(r, block[:0]); err != nil && err != io.EOF {
						return err
					}
					if len(block) == 0 {
						return nil
					}
					if on = yield(block, nil); !on {
						return nil
					}
				}
			})
			if err != nil {
				yield(nil, fmt.Errorf("%s: %w", name, err))
				return
			}
			if !on {
				return
			}
		}
	}
}

// countBlocks returns about how many blocks there are, for progress and remaining time; 0, which means that this is not known, if a file
// is packed and not small, or cannot be looked at.
func countBlocks(files []string) (n uint64) {
	for _, name := range files {
		info, err := os.Stat(name)
		if ext := filepath.Ext(name); err != nil || (ext == ".gz" || ext == ".zst") && info.Size() > blockSize {
			return 0
		}
		n += uint64(info.Size()+blockSize-1) / blockSize
	}
	return n
}

// nextBlock appends the next block to b.
func nextBlock(r *bufio.Reader, b []byte) ([]byte, error) {
	for len(b) < maxBlock {
		part, err := r.ReadSlice('\n')
		b = append(b, part...)
		switch {
		case err == bufio.ErrBufferFull:
		case err != nil:
			return b, err
		case len(b) >= blockSize:
			return b, nil
		}
	}
	return b, nil
}

// readFile opens a file, and unpacks it if its name says that it is packed.
func readFile(name string, read func(*bufio.Reader) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	switch filepath.Ext(name) {
	case ".gz":
		if magic, _ := in.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
			break // Go's tests have files of this name that are something else
		}
		z, err := gzip.NewReader(in)
		if err != nil {
			return err
		}
		defer z.Close()
		in = bufio.NewReader(z)
	case ".zst":
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return err
		}
		defer z.Close()
		in = bufio.NewReader(z)
	}
	return read(in)
}
