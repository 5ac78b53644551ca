//go:build !linux

package rings

import (
	"context"
	"errors"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/worker"
)

var errUnsupported = errors.New("rings between two processes need Linux")

// Supported says why there are no rings here.
func Supported() error { return errUnsupported }

// Handle lets a worker have readers of broadcasts, should there be memory for them.
func Handle(s *worker.Server) { handleBroadcast(s) }

// Pool has nothing here.
type Pool struct{}

// RoundTrips fails here.
func (*Pool) RoundTrips(context.Context, string, int, int, time.Duration) (measure.Sample, error) {
	return measure.Sample{}, errUnsupported
}

// OneWay fails here.
func (*Pool) OneWay(context.Context, string, string, int, int, time.Duration) (measure.Sample, error) {
	return measure.Sample{}, errUnsupported
}

// Close does nothing here.
func (*Pool) Close() {}
