package main

import (
	"bufio"
	"fmt"
	"io"
)

// linesCommand makes this program a filter, as the engine's processor "subprocess" needs it.
const linesCommand = "lines"

// lines does with the lines of in what the worker does with messages, one by one.
func lines(in io.Reader, out, failed io.Writer) error {
	w := bufio.NewWriter(out)
	scan := bufio.NewScanner(in)
	for scan.Scan() {
		parsed, _, err := parseLine(scan.Bytes())
		if err != nil {
			fmt.Fprintln(failed, err)
			continue
		}
		_, _ = w.Write(parsed)
		_ = w.WriteByte('\n')
		if err := w.Flush(); err != nil { // for each line: the engine waits for it
			return err
		}
	}
	return scan.Err()
}
