package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// load is what the clients have seen.
type load struct {
	stop    chan struct{}
	clients sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond
	answers map[int]int // by the pid of the worker
	failed  error       // the first one
}

// startLoad starts clients that ask for url until end is called or a request fails.
func startLoad(clients int, url string) *load {
	l := &load{stop: make(chan struct{}), answers: make(map[int]int)}
	l.changed = sync.NewCond(&l.mu)
	for i := range clients {
		client := &http.Client{
			Timeout:   time.Minute,
			Transport: &http.Transport{DisableKeepAlives: i%2 == 0},
		}
		l.clients.Go(func() {
			defer client.CloseIdleConnections()
			for l.note(ask(client, url)) {
			}
		})
	}
	return l
}

// ask returns the pid of the worker that answers.
func ask(c *http.Client, url string) (pid int, err error) {
	r, err := c.Get(url)
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err
	}
	if r.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %s", r.Status)
	}
	return strconv.Atoi(string(b))
}

// note counts an answer, and reports whether the client is to go on.
func (l *load) note(pid int, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.answers[pid]++
	} else if l.failed == nil {
		l.failed = fmt.Errorf("a request failed: %w", err)
	}
	l.changed.Broadcast()
	select {
	case <-l.stop:
		return false
	default:
		return l.failed == nil
	}
}

// await waits until a worker has answered 100 requests.
func (l *load) await(pid int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.answers[pid] < 100 && l.failed == nil {
		l.changed.Wait()
	}
	return l.failed
}

// end ends the load, and says what there was.
func (l *load) end() error {
	close(l.stop)
	l.clients.Wait()
	if l.failed != nil {
		return l.failed
	}
	requests := 0
	for _, n := range l.answers {
		requests += n
	}
	fmt.Printf("%d requests, answered by %d workers, none failed\n", requests, len(l.answers))
	return nil
}
