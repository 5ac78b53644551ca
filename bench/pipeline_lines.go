package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/worker"
)

// linesName is argument 0 of the process that returns each line of its stdin on stdout.
const linesName = "tandem-bench-lines"

// returnLines does nothing unless this is the process for it.
func returnLines() {
	if os.Args[0] != linesName {
		return
	}
	in, out := bufio.NewReaderSize(os.Stdin, 64<<10), bufio.NewWriterSize(os.Stdout, 64<<10)
	for {
		line, err := in.ReadSlice('\n')
		if err == io.EOF {
			os.Exit(0)
		}
		if err != nil {
			os.Exit(1)
		}
		if _, err := out.Write(line); err != nil {
			os.Exit(1)
		}
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				os.Exit(1)
			}
		}
	}
}

// throughLines moves records as lines through another process for d: one at a time, or as many as the pipes take.
func throughLines(ctx context.Context, d time.Duration, buffered bool) (s measure.Sample, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, worker.Self("").Path)
	cmd.Args = []string{linesName}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return s, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return s, err
	}
	if err := cmd.Start(); err != nil {
		return s, err
	}
	in, out := bufio.NewReaderSize(stdout, 64<<10), bufio.NewWriterSize(stdin, 64<<10)
	began := measure.Now()
	next := 0
	read := func() error {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if want := byte('a' + next%26); len(line) != pipelineRecord || line[0] != want {
			return fmt.Errorf("line %d is %q", next, line)
		}
		next++
		return nil
	}
	done := make(chan error, 1)
	if buffered {
		go func() {
			for {
				if err := read(); err == io.EOF {
					done <- nil
					return
				} else if err != nil {
					done <- err
					return
				}
			}
		}()
	}
	line := make([]byte, pipelineRecord)
	for i := range line {
		line[i] = '='
	}
	line[len(line)-1] = '\n'
	sent := 0
	for ; sent%64 != 0 || sent == 0 || measure.Now()-began < d; sent++ {
		line[0] = byte('a' + sent%26)
		if _, err = out.Write(line); err != nil {
			break
		}
		if !buffered {
			if err = out.Flush(); err == nil {
				err = read()
			}
			if err != nil {
				break
			}
		}
	}
	if err == nil {
		err = out.Flush()
	}
	_ = stdin.Close()
	if buffered && err == nil {
		err = <-done
	}
	s.Busy = measure.Now() - began
	s.Elapsed, s.Ops, s.Bytes = s.Busy, int64(sent), int64(sent)*pipelineRecord
	if err == nil && next != sent {
		err = fmt.Errorf("%d lines of %d have come back", next, sent)
	}
	if err != nil {
		cancel()
		_ = cmd.Wait()
		return s, err
	}
	return s, cmd.Wait()
}
