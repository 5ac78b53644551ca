package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Checkpoint is how far a run has come.
type Checkpoint struct {
	// Position is the first one that was not taken from the source.
	Position uint64 `json:"position"`
	// InFlight are the positions before it of records that are not done with, in order.
	InFlight []Span `json:"in_flight,omitempty"`
}

// Span is the positions from From on that are before To.
type Span struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// low returns the first position that is not done with.
func (c Checkpoint) low() uint64 {
	if len(c.InFlight) > 0 {
		return c.InFlight[0].From
	}
	return c.Position
}

// Resume makes a run begin where an earlier one has saved a checkpoint: it takes what was in flight then,
// and what follows. The zero Checkpoint is the beginning.
//
// What the sink had taken after the checkpoint was saved comes again, with the same IDs.
// So does, of a record that had become several ([Flatten]) of which it had taken some, each
// of them. A sink that remembers IDs, such as a [FileSink], takes them once.
func Resume(c Checkpoint) RunOption { return func(o *runOptions) { o.resume = c } }

// Save makes a run save checkpoints: now and then, at the end, and before the source is told to forget
// anything. An error ends the run. Save panics unless every is positive.
func Save(save func(context.Context, Checkpoint) error, every time.Duration) RunOption {
	if every <= 0 {
		panic(fmt.Sprintf("tandem: pipeline: Save every %v", every))
	}
	return func(o *runOptions) { o.save, o.every = save, every }
}

// LoadCheckpoint reads a checkpoint from a file. If there is none it returns the zero Checkpoint.
func LoadCheckpoint(path string) (c Checkpoint, err error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, nil
	case err != nil:
		return c, fmt.Errorf("tandem: pipeline: load a checkpoint: %w", err)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("tandem: pipeline: load a checkpoint from %s: %w", path, err)
	}
	if err := c.check(); err != nil {
		return c, fmt.Errorf("tandem: pipeline: load a checkpoint from %s: %w", path, err)
	}
	return c, nil
}

// check returns an error if c cannot be.
func (c Checkpoint) check() error {
	var at uint64
	for _, s := range c.InFlight {
		if s.From < at || s.To <= s.From || s.To > c.Position {
			return fmt.Errorf("span %d to %d in flight, after %d and before %d", s.From, s.To, at, c.Position)
		}
		at = s.To
	}
	return nil
}

// SaveTo returns a function for [Save] that writes checkpoints to a file, in JSON. The file is
// replaced at once, so it has the last checkpoint or the one before, whatever happens.
func SaveTo(path string) func(context.Context, Checkpoint) error {
	return func(_ context.Context, c Checkpoint) error {
		text, err := json.Marshal(c)
		if err != nil {
			return err
		}
		return replaceFile(path, append(text, '\n'))
	}
}

// replaceFile makes path a file with these contents, or leaves it as it is.
func replaceFile(path string, contents []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(contents)
	err = cmp.Or(err, f.Sync(), f.Close())
	if err != nil {
		_ = f.Close()
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	if dir, err := os.Open(filepath.Dir(path)); err == nil {
		_ = dir.Sync() // not every system has that
		_ = dir.Close()
	}
	return nil
}

// resumed says which positions an earlier run has done with.
type resumed struct {
	Checkpoint
	at int // spans before it are before all positions that are asked about
}

func newResumed(c Checkpoint) *resumed {
	if err := c.check(); err != nil {
		panic("tandem: pipeline: Resume: " + err.Error())
	}
	c.InFlight = slices.Clone(c.InFlight)
	return &resumed{Checkpoint: c}
}

// isDone reports whether a position is done with. Positions have to be asked about in order.
func (r *resumed) isDone(pos uint64) bool {
	if pos >= r.Position {
		return false
	}
	for r.at < len(r.InFlight) && r.InFlight[r.at].To <= pos {
		r.at++
	}
	return r.at == len(r.InFlight) || pos < r.InFlight[r.at].From
}
