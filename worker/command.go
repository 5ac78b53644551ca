package worker

import (
	"os/exec"
	"slices"
)

// cloneCmd copies what a user can set on a command that is not started. What is nil
// in one of its fields stays nil, and what is empty stays empty.
func cloneCmd(c *exec.Cmd) *exec.Cmd {
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
	return clone
}
