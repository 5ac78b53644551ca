package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/cwriter"
	"github.com/vbauerster/mpb/v8/decor"
)

// console is stderr: a progress bar, if it is a terminal, and messages above it.
type console struct {
	out        io.Writer
	progress   *mpb.Progress // nil without a bar
	bar        *mpb.Bar
	unreadable atomic.Int64
}

func newConsole() *console { return &console{out: os.Stderr} }

// showBar shows a bar for so many bytes.
func (c *console) showBar(total int64) {
	if total == 0 || !cwriter.IsTerminal(int(os.Stderr.Fd())) {
		return
	}
	c.progress = mpb.New(mpb.WithOutput(os.Stderr))
	c.bar = c.progress.AddBar(total,
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.CountersKiloByte("% .1f / % .1f")),
		mpb.AppendDecorators(decor.AverageSpeed(decor.SizeB1000(0), "% .1f "), decor.Percentage()))
	c.out = c.progress
}

// hideBar removes the bar. Nothing may be shown meanwhile.
func (c *console) hideBar() {
	if c.progress == nil {
		return
	}
	c.bar.Abort(true)
	c.progress.Wait()
	c.progress, c.out = nil, os.Stderr
}

// Progress moves the bar on.
func (c *console) Progress(bytes int) {
	if c.progress != nil {
		c.bar.IncrBy(bytes)
	}
}

// Unreadable says why a file could not be read.
func (c *console) Unreadable(err error) {
	c.unreadable.Add(1)
	fmt.Fprintln(c.out, "wordcount:", err)
}
