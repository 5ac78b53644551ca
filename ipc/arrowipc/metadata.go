package arrowipc

import (
	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/apache/arrow-go/v18/arrow"
)

// metadata returns the metadata of a message of kind k with the body. It is valid until the next
// call with the same builder.
func (b *body) metadata(fb *flatbuffers.Builder, k kind, id int64, rows int, custom arrow.Metadata) []byte {
	fb.Reset()
	list := func(size, n int, element func(i int)) flatbuffers.UOffsetT {
		fb.StartVector(size, n, 8)
		for i := n - 1; i >= 0; i-- {
			element(i)
		}
		return fb.EndVector(n)
	}
	pair := func(first, second int) {
		fb.Prep(8, 16)
		fb.PrependInt64(int64(second))
		fb.PrependInt64(int64(first))
	}
	nodes := list(16, len(b.nodes), func(i int) { pair(b.nodes[i].length, b.nodes[i].nulls) })
	buffers := list(16, len(b.parts), func(i int) { pair(b.parts[i].at, b.parts[i].size) })
	var variadic flatbuffers.UOffsetT
	if len(b.variadic) > 0 {
		variadic = list(8, len(b.variadic), func(i int) { fb.PrependInt64(int64(b.variadic[i])) })
	}
	// The slots are the places in message.go, as numbers from 0 on.
	fb.StartObject(5)
	fb.PrependInt64Slot(0, int64(rows), 0)
	fb.PrependUOffsetTSlot(1, nodes, 0)
	fb.PrependUOffsetTSlot(2, buffers, 0)
	fb.PrependUOffsetTSlot(4, variadic, 0)
	header := fb.EndObject()
	if k == dictionaryMessage {
		fb.StartObject(3)
		fb.PrependInt64Slot(0, id, 0)
		fb.PrependUOffsetTSlot(1, header, 0)
		header = fb.EndObject()
	}
	pairs := pairsOf(fb, custom)
	fb.StartObject(5)
	fb.PrependInt16Slot(0, version5, 0)
	fb.PrependByteSlot(1, byte(k), 0)
	fb.PrependUOffsetTSlot(2, header, 0)
	fb.PrependInt64Slot(3, int64(b.size), 0)
	fb.PrependUOffsetTSlot(4, pairs, 0)
	fb.Finish(fb.EndObject())
	return fb.FinishedBytes()
}

// pairsOf adds keys and values, and returns where they are.
func pairsOf(fb *flatbuffers.Builder, m arrow.Metadata) flatbuffers.UOffsetT {
	if m.Len() == 0 {
		return 0
	}
	pairs := make([]flatbuffers.UOffsetT, m.Len())
	for i, key := range m.Keys() {
		k, v := fb.CreateString(key), fb.CreateString(m.Values()[i])
		fb.StartObject(2)
		fb.PrependUOffsetTSlot(0, k, 0)
		fb.PrependUOffsetTSlot(1, v, 0)
		pairs[i] = fb.EndObject()
	}
	fb.StartVector(4, len(pairs), 4)
	for i := len(pairs) - 1; i >= 0; i-- {
		fb.PrependUOffsetT(pairs[i])
	}
	return fb.EndVector(len(pairs))
}
