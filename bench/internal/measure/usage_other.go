//go:build !unix

package measure

func system() Usage { return Usage{} }
