//go:build !amd64 || race

package bulk

// fast: the race detector sees what copy does, and not what assembly does.
var fast = false

func copyFast(dst, src []byte) bool { return fast }
