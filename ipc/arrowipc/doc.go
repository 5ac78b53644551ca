// Package arrowipc sends Arrow record batches to other processes. A batch crosses as one
// [ipc.Buffer]: the sender writes its columns into the memory of an arena, once, and the arrays of the
// receiver lie in that same memory.
//
// A stream of batches is a stream of [Item]. The sender wraps its end in a [Sender], the receiver its
// end in a [Receiver]; the schema crosses once, a dictionary when it changes. A batch by itself, as
// the request or the response of a call, is a buffer that [Encode] makes and [Decode] reads:
//
//	var Sum = ipc.NewClientStream[arrowipc.Item, float64]("table.sum")
//	var Sort = ipc.NewMethod[ipc.Buffer, ipc.Buffer]("table.sort", ipc.WithCodec(ipc.Raw))
//
// # Who may write
//
// The sender can still write the memory while a receiver reads it, as with every [ipc.Buffer]. A
// receiver checks what it has got ([ReadOptions]), but a sender that is hostile, or broken, can change
// it after that. Then an array's method may panic, and two reads of one value may differ; memory
// that is no part of the batch is never read by the arrays themselves. Where the sender is not
// trusted, set [ReadOptions.Copy] or [ReadOptions.Frozen].
//
// # How long memory lives
//
// The memory of a batch is the receiver's until the batch, and all arrays and slices that were made
// of it, are released. The same holds for what points into it, such as the strings that
// array.String.Value returns: clone what you keep for longer. The arena of the sender has that
// memory back then, and not before, so a receiver that is behind makes its sender wait.
package arrowipc
