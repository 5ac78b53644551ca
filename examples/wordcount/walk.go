package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// file is a regular file and its size when it was found.
type file struct {
	name string
	size int64
}

// walk finds the regular files in and below paths. Symbolic links are followed
// where they are given as paths, and nowhere else. What cannot be read goes to
// unreadable; the error is that of ctx.
func walk(ctx context.Context, paths []string, unreadable func(error)) (files []file, err error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			unreadable(err)
			continue
		case info.IsDir():
			// With a separator at its end a link stands for what it leads to.
			path += string(filepath.Separator)
		case !info.Mode().IsRegular():
			unreadable(&fs.PathError{Op: "open", Path: path, Err: errors.New("neither a regular file nor a directory")})
			continue
		default:
			files = append(files, file{path, info.Size()})
			continue
		}
		err = filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				unreadable(err)
				return nil // and on with the rest
			}
			if !entry.Type().IsRegular() {
				return nil
			}
			var size int64
			if info, err := entry.Info(); err == nil { // else opening it will fail too
				size = info.Size()
			}
			files = append(files, file{filepath.Clean(name), size})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}
