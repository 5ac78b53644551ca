package wait

import "sync/atomic"

// A Failure is an error that is set once by any goroutine, and then stays.
type Failure struct{ err atomic.Pointer[error] }

// Set sets the error if there is none.
func (f *Failure) Set(err error) { f.err.CompareAndSwap(nil, &err) }

// Get returns the error, or nil.
func (f *Failure) Get() error {
	if p := f.err.Load(); p != nil {
		return *p
	}
	return nil
}
