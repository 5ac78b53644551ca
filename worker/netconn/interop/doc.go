// Package interop has the tests of package netconn that need other modules: the conformance test of
// golang.org/x/net for connections, and servers and clients that run over them.
package interop
