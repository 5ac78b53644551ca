//go:build !unix

package main

import "os/exec"

func ownGroup(*exec.Cmd) {}

// killGroup kills a process. Those that it has started find out.
func killGroup(cmd *exec.Cmd) { _ = cmd.Process.Kill() }
