//go:build !linux

package ring

func blockOn(word *uint32, value uint32) error { return futexWait(word, value, 0) }
