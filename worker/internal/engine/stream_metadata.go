package engine

import "github.com/tandemipc/tandem/drivers"

// The header of a stream goes with the first frame of items from the handler's side. What is
// set later goes with the end, and so does the trailer.

// addHeader puts the header into the frame that is sent next, if there is one.
func (st *Stream) addHeader() {
	x := st.handler.exchange.Load()
	if x == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.header) > 0 {
		st.out.frame.Meta = drivers.NewMetadata(x.header, nil)
	}
}

// endMeta returns the metadata of the last frame, nil if there is none.
func (st *Stream) endMeta() *drivers.Metadata {
	x := st.handler.exchange.Load()
	if x == nil {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if header := x.header[st.out.header:]; len(header)+len(x.trailer) > 0 {
		return drivers.NewMetadata(header, x.trailer)
	}
	return nil
}

// deliver gives what has come to whoever opened the stream. It is called by the goroutine that
// receives.
func (st *Stream) deliver(meta *drivers.Metadata) {
	if to := st.call.Header; to != nil {
		*to = append(*to, meta.Header()...)
	}
	if to := st.call.Trailer; to != nil {
		*to = append(*to, meta.Trailer()...)
	}
}
