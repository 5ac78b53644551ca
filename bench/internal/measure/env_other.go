//go:build !linux

package measure

func machine(*Env) {}
