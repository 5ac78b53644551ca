package worker_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

var (
	topicFewFiles   = ipc.NewMethod[int, int]("test.topic_few_files") // how many are free from now on, or none less if negative
	topicFollowForm = ipc.NewMethod[int, formOf]("test.topic_follow_form")
)

// formOf is how a subscription has begun and ended.
type formOf struct {
	SharedMemory bool
	Next         uint64
	Code         ipc.Code
}

func init() {
	entries["topic short"] = func() error {
		s := worker.NewServer()
		worker.Handle(s, topicFewFiles, func(_ context.Context, free int) (int, error) {
			limit := unix.Rlimit{Cur: 500, Max: 1000}
			if free >= 0 {
				limit.Cur = leaktest.FilesFor(free)
			}
			return 0, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
		})
		worker.Handle(s, topicFollowForm, func(ctx context.Context, _ int) (formOf, error) {
			return follows(ctx, hostTicks, worker.Host(ctx))
		})
		serveTopics(s)
		return s.Serve(context.Background())
	}
}

// follows gets what is kept, and how.
func follows(ctx context.Context, topic *ipc.Topic[tick], c ipc.Caller) (f formOf, _ error) {
	sub, err := topic.Open(ctx, c, ipc.FromOldest())
	if err != nil {
		f.Code = ipc.CodeOf(err)
		return f, nil
	}
	defer sub.Close()
	for f.Next < 10 {
		k, err := sub.Receive(ctx)
		if err != nil {
			return f, err
		}
		f.Next = k.N
	}
	f.SharedMemory = sub.Stats().SharedMemory
	return f, nil
}

// A side that has no descriptors for shared memory gets, or sends, a stream, and shares memory when there are some again.
func TestTopicShortOfFiles(t *testing.T) {
	for _, side := range []string{"subscriber", "publisher"} {
		t.Run(side, func(t *testing.T) {
			w, err := spawners[0].spawn(t.Context(), worker.Self("topic short"))
			require.NoError(t, err)
			defer w.Close()
			forms := make(map[bool]int)
			for _, free := range []int{0, 1, 2, 3, 4, 5, 6, -1} {
				var p *ipc.Publisher[tick]
				if side == "subscriber" {
					p = hostPublisher(t, w)
					require.NoError(t, publishTicks(t.Context(), p, 10))
				} else {
					openTopic(t, w, topicOptions{})
					_, err := topicPublish.Call(t.Context(), w, publishing{N: 10})
					require.NoError(t, err)
				}
				_, err := topicFewFiles.Call(t.Context(), w, free)
				require.NoError(t, err)
				var f formOf
				if side == "subscriber" {
					f, err = topicFollowForm.Call(t.Context(), w, 0)
				} else {
					f, err = follows(t.Context(), ticks, w)
				}
				require.NoError(t, err)
				require.Zero(t, f.Code)
				require.Equal(t, uint64(10), f.Next)
				if free == 0 {
					require.False(t, f.SharedMemory)
				}
				if free < 0 {
					require.True(t, f.SharedMemory)
				}
				forms[f.SharedMemory]++
				_, err = topicFewFiles.Call(t.Context(), w, -1)
				require.NoError(t, err)
				if p != nil {
					require.NoError(t, p.Close())
				} else {
					_, err = topicClose.Call(t.Context(), w, 0)
					require.NoError(t, err)
				}
			}
			t.Log(forms)
		})
	}
}
