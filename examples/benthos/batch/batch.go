// Package batch is the contract between the processor "tandem" of a Benthos stream and its workers:
// how a batch of messages crosses. A worker's program imports it, and nothing of Benthos:
//
//	s := worker.NewServer()
//	batch.Handle(s, "parse", func(ctx context.Context, m *batch.Message) error {
//		m.SetBytes(bytes.ToUpper(m.Bytes()))
//		m.MetaSet("parsed", true)
//		return nil
//	})
//	if err := s.Serve(ctx); err != nil { ... }
package batch

import "github.com/tandemipc/tandem/ipc"

// Item is a message on its way to a worker.
type Item struct {
	_       struct{} `cbor:",toarray"`
	Content []byte
	// Meta is its metadata, of [Portable] values.
	Meta map[string]any
	// Err is an error that the message had before, as [ipc.AppendError] writes it, or nil.
	Err []byte
}

// Outcome is a message on its way back. It says only what has changed, so that everything else
// stays as the engine has it.
type Outcome struct {
	_ struct{} `cbor:",toarray"`
	// From is the index, in the batch that was sent, of the message that it was made of.
	From int
	// Changed says that Content is new.
	Changed bool
	Content []byte
	// Set is metadata that is new or has changed, and Deleted are the keys of what is gone.
	Set     map[string]any
	Deleted []string
	// Err is its error, as in Item. It counts only if ErrChanged is true; nil says that there is none
	// any more.
	ErrChanged bool
	Err        []byte
}

// NewMethod declares the method by which batches travel to the handler of a name. Messages that no
// outcome was made of are dropped.
func NewMethod(name string, opts ...ipc.MethodOption) *ipc.Method[[]Item, []Outcome] {
	return ipc.NewMethod[[]Item, []Outcome]("benthos."+name, opts...)
}
