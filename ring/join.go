package ring

import "sync/atomic"

// Join makes the two ends that one side needs: a [Producer] for the ring in
// local, which this side has formatted, and a [Consumer] for the ring in remote,
// which the peer has. The two rings may differ in size.
//
// The headers are copied, then validated; errors wrap [ErrLayout] and say what
// was seen and what was expected. Call Join once for a pair of segments: it
// starts at the start positions in the headers. Neither side waits for the other
// to join. The memory must outlive the Producer and the Consumer and every
// goroutine in them.
func Join(local, remote []byte) (*Producer, *Consumer, error) {
	mine, err := readHeader("local segment", local)
	if err != nil {
		return nil, nil, err
	}
	theirs, err := readHeader("remote segment", remote)
	if err != nil {
		return nil, nil, err
	}
	// SYNC: pairs with Producer.refresh of the peer, which takes the value
	// that Format left for "not joined yet".
	atomic.StoreUint64(u64At(local, offConsumerPosition), theirs.start)
	return newProducer(local, remote, mine), newConsumer(local, remote, theirs), nil
}
