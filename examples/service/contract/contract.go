// Package contract is what the server and its clients share.
package contract

import "github.com/tandemipc/tandem/ipc"

// Count counts the words of a text.
var Count = ipc.NewMethod[string, int]("text.count")
