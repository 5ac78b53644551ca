//go:build !unix

package ipc

func closeOnExec(int) {}
