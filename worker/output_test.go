//go:build linux

package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

const floodLines = 20_000

// talk makes a worker write; it returns how many bytes it wrote.
var talk = ipc.NewMethod[string, int]("test.talk")

func init() { entries["talker"] = beTalker }

func beTalker() error {
	fmt.Println("hello from", os.Getpid())
	s := worker.NewServer()
	worker.Handle(s, talk, func(_ context.Context, what string) (int, error) {
		switch what {
		case "flood":
			n := 0
			line := strings.Repeat("a flood of lines ", 20)
			for range floodLines {
				m, err := fmt.Println(line)
				if err != nil {
					return n, err
				}
				n += m
			}
			return n, nil
		case "slog":
			log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
			log.With("pid", os.Getpid()).WithGroup("request").Warn("slow <b>", "id", 7, "share", 0.5, slog.Group("peer", "name", "x", "ok", true))
			log.Debug("details", "pid", 1, "list", []any{1, "two", map[string]int{"three": 3}}, "nothing", nil, "took", time.Second)
			slog.New(slog.NewTextHandler(os.Stderr, nil)).Error("in text", "n", 1)
			fmt.Println(`{"level":"INFO","msg":"not alone"} tail`)
			fmt.Println(`{"level":"LOUD","msg":"no such level"}`)
			fmt.Println(`{"msg":"no level"}`)
		case "exit":
			fmt.Print("to the end")
			fmt.Fprint(os.Stderr, "last words")
			os.Exit(4)
		default:
			return fmt.Println(what)
		}
		return 0, nil
	})
	return s.Serve(context.Background())
}

// capture is a logger that keeps what it gets.
type capture struct {
	log *slog.Logger

	mu  sync.Mutex
	buf bytes.Buffer
}

func newCapture() *capture {
	c := new(capture)
	c.log = slog.New(slog.NewJSONHandler(c, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return c
}

func (c *capture) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(b)
}

func (c *capture) records(t *testing.T) []map[string]any {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []map[string]any
	for d := json.NewDecoder(bytes.NewReader(c.buf.Bytes())); ; {
		var r map[string]any
		err := d.Decode(&r)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all = append(all, r)
	}
}

// with returns the one record that has this message.
func (c *capture) with(t *testing.T, message string) map[string]any {
	t.Helper()
	var found []map[string]any
	for _, r := range c.records(t) {
		if r["msg"] == message {
			found = append(found, r)
		}
	}
	require.Len(t, found, 1, message)
	return found[0]
}

func TestOutput(t *testing.T) {
	twoDrivers(t, func(t *testing.T, s spawner) {
		c := newCapture()
		cmd := worker.Self("talker")
		cmd.WaitDelay = time.Minute
		w, err := s.spawn(t.Context(), cmd, worker.WithOutput(c.log))
		require.NoError(t, err)
		defer w.Close()
		long := strings.Repeat("x", 150<<10)
		for _, what := range []string{"one\n\ntwo\r", long, "slog"} {
			_, err := talk.Call(t.Context(), w, what)
			require.NoError(t, err)
		}
		_, err = talk.Call(t.Context(), w, "exit")
		var exit *worker.ExitError
		require.ErrorAs(t, err, &exit)
		require.True(t, strings.HasSuffix(exit.Stderr, "last words"), "stderr is kept for errors, too")
		require.Equal(t, exit, w.Close(), "then all is logged")

		pid := float64(w.PID())
		for message, stream := range map[string]string{
			fmt.Sprintf("hello from %d", w.PID()): "stdout", "one": "stdout", "two": "stdout",
			"to the end": "stdout", "last words": "stderr", // lines without an end
			long[:22<<10]: "stdout",
			`{"level":"INFO","msg":"not alone"} tail`: "stdout", `{"level":"LOUD","msg":"no such level"}`: "stdout", `{"msg":"no level"}`: "stdout",
		} {
			r := c.with(t, message)
			require.Equal(t, pid, r["pid"])
			require.Equal(t, stream, r["stream"])
			require.Equal(t, "INFO", r["level"])
		}
		var pieces, text int
		for _, r := range c.records(t) {
			require.NotEmpty(t, r["msg"], "empty lines are left out")
			if r["msg"] == long[:64<<10] {
				pieces++
			}
			if strings.HasSuffix(r["msg"].(string), `level=ERROR msg="in text" n=1`) {
				require.Equal(t, "INFO", r["level"])
				text++
			}
		}
		require.Equal(t, 2, pieces, "a long line comes in pieces")
		require.Equal(t, 1, text)

		r := c.with(t, "slow <b>")
		delete(r, "time")
		require.Equal(t, map[string]any{"level": "WARN", "msg": "slow <b>", "pid": pid, "stream": "stderr",
			"request": map[string]any{"id": 7., "share": 0.5, "peer": map[string]any{"name": "x", "ok": true}}}, r)
		r = c.with(t, "details")
		delete(r, "time")
		require.Equal(t, map[string]any{"level": "DEBUG", "msg": "details", "pid": pid, "stream": "stderr", "nothing": nil, "took": 1e9,
			"list": []any{1., "two", map[string]any{"three": 3.}}}, r)
		c.mu.Lock()
		defer c.mu.Unlock()
		require.Equal(t, 1, bytes.Count(line(c.buf.Bytes(), "slow"), []byte(`"pid"`)), "said once")
		require.Regexp(t, `"pid":1,.*"pid":`, string(line(c.buf.Bytes(), "details")), "another one is not lost")
	})
}

func line(b []byte, word string) []byte {
	for l := range bytes.Lines(b) {
		if bytes.Contains(l, []byte(word)) {
			return l
		}
	}
	return nil
}

// The streams that the command has set are its own.
func TestOutputBesideTheCommands(t *testing.T) {
	twoDrivers(t, func(t *testing.T, s spawner) {
		c := newCapture()
		var stdout bytes.Buffer
		cmd := worker.Self("talker")
		cmd.Stdout, cmd.WaitDelay = &stdout, time.Minute
		w, err := s.spawn(t.Context(), cmd, worker.WithOutput(c.log))
		require.NoError(t, err)
		_, err = talk.Call(t.Context(), w, "exit")
		require.Error(t, err)
		require.Error(t, w.Close())
		require.Contains(t, stdout.String(), "to the end")
		require.Len(t, c.records(t), 1)
		c.with(t, "last words")
	})
}

// What a worker says before a start fails is logged.
func TestOutputOfAFailedStart(t *testing.T) {
	twoDrivers(t, func(t *testing.T, s spawner) {
		c := newCapture()
		_, err := s.spawn(t.Context(), worker.Self("exit"), worker.WithOutput(c.log))
		require.ErrorContains(t, err, "no configuration found")
		require.Equal(t, "stderr", c.with(t, "no configuration found")["stream"])
	})
}

// stuckHandler blocks until it is let go.
type stuckHandler struct {
	slog.Handler
	free chan struct{}
}

func (h stuckHandler) Handle(ctx context.Context, r slog.Record) error {
	<-h.free
	return h.Handler.Handle(ctx, r)
}

// A logger that is stuck stops neither the worker nor its end; what it has missed is
// counted.
func TestOutputToASlowLogger(t *testing.T) {
	twoDrivers(t, func(t *testing.T, s spawner) {
		c := newCapture()
		stuck := stuckHandler{c.log.Handler(), make(chan struct{})}
		w, err := s.spawn(t.Context(), worker.Self("talker"), worker.WithOutput(slog.New(stuck)))
		require.NoError(t, err)
		n, err := talk.Call(t.Context(), w, "flood")
		require.NoError(t, err)
		require.Greater(t, n, 4<<20, "much more than may wait")
		require.NoError(t, w.Close())
		close(stuck.free)
		logged, dropped := 0, 0
		eventually(t, "the loss is logged", func() bool {
			logged, dropped = 0, 0
			for _, r := range c.records(t) {
				if lines, ok := r["lines"].(float64); ok {
					require.Equal(t, "WARN", r["level"])
					dropped += int(lines)
				} else {
					logged++
				}
			}
			return logged+dropped == 1+floodLines // it said hello first
		})
		require.NotZero(t, logged)
		require.NotZero(t, dropped)
	})
}
