// Package command copies the commands that users give as templates of workers.
package command

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
)

// Clone copies what a user can set on a command that is not started. What is nil
// in one of its fields stays nil, and what is empty stays empty. Path and Dir are
// made absolute. A command that cannot be a template gets an Err.
func Clone(c *exec.Cmd) *exec.Cmd {
	if c == nil {
		panic("tandem: the command of a worker is nil")
	}
	clone := &exec.Cmd{
		Path: c.Path, Args: slices.Clone(c.Args), Env: slices.Clone(c.Env), Dir: c.Dir,
		Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr,
		ExtraFiles: slices.Clone(c.ExtraFiles), WaitDelay: c.WaitDelay, Err: c.Err,
	}
	if c.SysProcAttr != nil {
		attr := *c.SysProcAttr
		clone.SysProcAttr = &attr
	}
	if len(clone.Args) == 0 {
		clone.Args = []string{c.Path}
	}
	if clone.Err == nil {
		clone.Err = checkCmd(c)
	}
	if clone.Err == nil {
		clone.Err = makeAbsolute(clone)
	}
	return clone
}

// checkCmd fails for a command that is meant for one process.
func checkCmd(c *exec.Cmd) error {
	switch {
	case c.Process != nil:
		return fmt.Errorf("the command has been started already, as process %d: give one that has not", c.Process.Pid)
	case c.Cancel != nil:
		return errors.New("the command is made with exec.CommandContext, whose context would end it: " +
			"use exec.Command, or set Cancel to nil, and end the worker with Close")
	case hasPipes(c):
		return errors.New("the command has pipes for one process, made with StdinPipe, StdoutPipe or StderrPipe: " +
			"set its Stdin, Stdout or Stderr, as to an end of io.Pipe")
	}
	return nil
}

// hasPipes reports whether StdinPipe, StdoutPipe or StderrPipe of c was called. Only a
// field that os/exec does not export tells these pipes from the user's own.
func hasPipes(c *exec.Cmd) bool {
	pipes := reflect.ValueOf(c).Elem().FieldByName("parentIOPipes")
	return pipes.IsValid() && pipes.Kind() == reflect.Slice && pipes.Len() > 0
}

// makeAbsolute makes the command independent of our working directory, which may be
// another one by the time of a restart. In a Chroot paths mean something else.
func makeAbsolute(c *exec.Cmd) error {
	if c.Path == "" || isChrooted(c.SysProcAttr) || filepath.IsAbs(c.Path) && (c.Dir == "" || filepath.IsAbs(c.Dir)) {
		return nil
	}
	wd, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("make the paths of the command absolute: %w", err)
	}
	// Joined as they are, since with symbolic links "a/.." need not be ".".
	join := func(dir, path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return dir + string(filepath.Separator) + path
	}
	c.Dir = join(wd, c.Dir)
	if c.Dir != "" {
		wd = c.Dir // os/exec takes a relative Path as relative to Dir
	}
	c.Path = join(wd, c.Path)
	return nil
}
