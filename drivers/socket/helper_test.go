//go:build linux

package socket_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
)

// helperMain is a process between the test and a worker, or an impostor.
func helperMain(mode, arg string) int {
	switch mode {
	case "host", "host-detached": // spawns a worker, says its pid, and waits to be killed
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		d := socket.Driver{Path: arg + ".sock", Detached: mode == "host-detached", OnDisconnect: socket.KeepAlive}
		work := "once"
		if d.Detached {
			work = "echo"
		}
		ch, err := d.Spawn(ctx, command(nil, work, arg))
		if err != nil {
			return fatal(err)
		}
		ch.Links(func(ipc.Link) {})
		fmt.Println(ch.Process().PID())
		time.Sleep(3 * testTimeout)
		return 0
	case "impostor":
		ln, err := net.Listen("unix", arg)
		if err != nil {
			return fatal(err)
		}
		fmt.Println("listening")
		for {
			c, err := ln.Accept()
			if err != nil {
				return fatal(err)
			}
			_, _ = fmt.Fprintln(c, "I am your worker")
		}
	}
	fmt.Fprintln(os.Stderr, "unknown helper", mode)
	return 2
}
