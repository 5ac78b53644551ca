package arrowipc

import "github.com/tandemipc/tandem/ipc"

// Item is an item of a stream of batches, such as an [ipc.ClientStream] of Item. [Sender] makes items,
// [Receiver] reads them; nobody else has to.
type Item struct {
	// Schema is the schema, as a message of Arrow's IPC format. Only the first item has one.
	Schema []byte
	// Dictionaries are those that this batch needs and that were not sent, or have changed.
	Dictionaries []ipc.Buffer
	// Batch is a batch. It is zero if more dictionaries have to come before, than an item can carry.
	Batch ipc.Buffer
}

// release releases the buffers of an item that was sent, or will not be.
func (i *Item) release() {
	for _, b := range i.Dictionaries {
		b.Release()
	}
	i.Batch.Release()
	*i = Item{}
}
