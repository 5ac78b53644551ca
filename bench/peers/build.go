package main

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// sources are those of the foreign programs.
//
//go:embed iceoryx2/Cargo.toml iceoryx2/Cargo.lock iceoryx2/src aeron/pom.xml aeron/src
var sources embed.FS

// unpack writes the sources of a foreign program into the user's cache, where it is built,
// and returns the directory. What is there already stays as it is, so that nothing is built
// twice.
func unpack(name string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "tandem-bench")
	err = fs.WalkDir(sources, name, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(cache, filepath.FromSlash(path))
		if d.IsDir() {
			return os.MkdirAll(to, 0o700)
		}
		data, err := sources.ReadFile(path)
		if err != nil {
			return err
		}
		if old, err := os.ReadFile(to); err == nil && bytes.Equal(old, data) {
			return nil
		}
		return os.WriteFile(to, data, 0o600)
	})
	return filepath.Join(cache, name), err
}

// run runs a tool in dir. Its output is shown if it fails.
func run(dir, tool string, args ...string) error {
	cmd := exec.Command(tool, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", tool, err, tail(out))
	}
	return nil
}

// tail is the end of what a tool has written, where the reason is.
func tail(out []byte) []byte {
	const most = 600
	out = bytes.TrimSpace(out)
	return out[max(len(out)-most, 0):]
}
