package pipeline

import "context"

// Once makes a sink that gets each record once: it remembers the ids that sink has taken. It
// does so in memory, so it is for runs of one process: after [Resume], or when a run has failed.
// A [FileSink] remembers its ids in a file.
func Once[T any](sink Sink[T]) *OnceSink[T] { return &OnceSink[T]{sink: sink} }

// OnceSink is what [Once] makes.
type OnceSink[T any] struct {
	sink    Sink[T]
	ids     IDs
	fresh   []Item[T]
	doubled uint64
}

// Write implements [Sink].
func (s *OnceSink[T]) Write(ctx context.Context, records []Item[T]) error {
	s.fresh = s.fresh[:0]
	for _, item := range records {
		if s.ids.Has(item.ID) {
			s.doubled++
		} else {
			s.fresh = append(s.fresh, item)
		}
	}
	if len(s.fresh) == 0 {
		return nil
	}
	if err := s.sink.Write(ctx, s.fresh); err != nil {
		return err
	}
	for i := range s.fresh {
		s.ids.Add(s.fresh[i].ID)
	}
	clear(s.fresh)
	return nil
}

// Doubled returns how many records have come that had been taken before. It may not be called while Write
// runs.
func (s *OnceSink[T]) Doubled() uint64 { return s.doubled }

// Forget is [IDs.Forget].
func (s *OnceSink[T]) Forget(before uint64) error {
	s.ids.Forget(before)
	return nil
}
