// Ring uses package ring alone, between two processes: no worker, no calls, just records. The
// parent starts a child that inherits one of two connected sockets, and over these the two exchange
// the memory of their rings. Then the child adds up the numbers that the parent sends.
//
//	go run ./examples/ring
//
// At the end the parent kills the child, and notices.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"

	"github.com/tandemipc/tandem/ring"
)

// What a record is, by its tag.
const (
	tagNumber = iota // 8 bytes
	tagSum           // from the parent: a question; from the child: the answer, 8 bytes
)

const numbers = 1_000_000

func main() {
	log.SetFlags(0)
	run := parent
	if len(os.Args) > 1 && os.Args[1] == "child" {
		run = child
	}
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func parent(ctx context.Context) error {
	ours, theirs, err := ring.Socketpair()
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, "child")
	cmd.ExtraFiles = []*os.File{theirs} // its descriptor 3
	cmd.Stderr = os.Stderr
	err = cmd.Start()
	theirs.Close() // so that only the child has it
	if err != nil {
		ours.Close()
		return err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()

	link, err := ring.Exchange(ctx, ours, 1<<20)
	if err != nil {
		return err
	}
	defer link.Close()
	var b [8]byte
	for n := range uint64(numbers) {
		binary.LittleEndian.PutUint64(b[:], n)
		// Send waits for room.
		if err := link.Producer.Send(ctx, tagNumber, b[:], nil); err != nil {
			return err
		}
	}
	if err := link.Producer.Send(ctx, tagSum, nil, nil); err != nil {
		return err
	}
	answer, err := next(ctx, link)
	if err != nil {
		return err
	}
	fmt.Printf("the child has added %d numbers: %d\n", numbers, binary.LittleEndian.Uint64(answer.Data))

	if err := cmd.Process.Kill(); err != nil {
		return err
	}
	if _, err := next(ctx, link); !errors.Is(err, ring.ErrPeerGone) {
		return fmt.Errorf("the child was killed, and the ring says: %w", err)
	}
	fmt.Println("the child was killed, and the parent has noticed")
	return nil
}

func child(ctx context.Context) error {
	conn, err := net.FileConn(os.NewFile(3, "ring"))
	if err != nil {
		return err
	}
	// The ring of the child's own records is small, for it sends few.
	link, err := ring.Exchange(ctx, conn.(*net.UnixConn), ring.MinSize)
	if err != nil {
		return err
	}
	defer link.Close()
	var sum uint64
	for {
		r, err := next(ctx, link)
		switch {
		case errors.Is(err, ring.ErrPeerGone):
			return nil // the parent has ended
		case err != nil:
			return err
		case r.Tag == tagSum:
			if err := link.Producer.Send(ctx, tagSum, binary.LittleEndian.AppendUint64(nil, sum), nil); err != nil {
				return err
			}
		case len(r.Data) == 8:
			sum += binary.LittleEndian.Uint64(r.Data)
		}
	}
}

// next waits for the next record, which is valid until the next call.
func next(ctx context.Context, link *ring.Link) (ring.Record, error) {
	for {
		r, ok, err := link.Consumer.Next()
		if ok || err != nil {
			return r, err
		}
		if err := link.Consumer.Wait(ctx); err != nil {
			return ring.Record{}, err
		}
	}
}
