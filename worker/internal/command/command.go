// Package command copies the commands that users give as templates of workers.
package command

import (
	"os"
	"os/exec"
)

// Clone copies what a user can set on a template that is not started.
func Clone(c *exec.Cmd) *exec.Cmd {
	clone := &exec.Cmd{
		Path: c.Path, Args: append([]string(nil), c.Args...), Env: append([]string(nil), c.Env...), Dir: c.Dir,
		Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr,
		ExtraFiles: append([]*os.File(nil), c.ExtraFiles...), SysProcAttr: c.SysProcAttr, WaitDelay: c.WaitDelay, Err: c.Err,
	}
	if c.Env == nil {
		clone.Env = nil
	}
	if clone.Args == nil {
		clone.Args = []string{c.Path}
	}
	return clone
}
