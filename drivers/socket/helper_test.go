//go:build linux

package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/socket"
)

// helperMain is a process between the test and a worker, or an impostor.
func helperMain(mode, arg string) int {
	switch mode {
	case "host", "host-detached": // spawns a worker, says its pid, and waits to be killed
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		d := socket.Driver{Path: arg + ".sock", Detached: mode == "host-detached"}
		work := "once"
		if d.Detached {
			work, d.OnDisconnect = "echo", socket.KeepAlive
		}
		ch, err := d.Spawn(ctx, command(nil, work, arg))
		if err != nil {
			return fatal(err)
		}
		ch.Links(func(drivers.Link) {})
		fmt.Println(ch.Process().PID())
		time.Sleep(3 * testTimeout)
		return 0
	case "leave": // spawns a detached worker, prints its reference, and does as arg says
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		d := socket.Driver{Detached: true}
		if arg == "keepalive" {
			d.OnDisconnect = socket.KeepAlive
		}
		ch, err := d.Spawn(ctx, command(nil, "echo", ""))
		if err != nil {
			return fatal(err)
		}
		ch.Links(func(drivers.Link) {})
		switch arg {
		case "detach":
			if _, err := ch.Detach(); err != nil {
				return fatal(err)
			}
		case "disconnect":
			_ = ch.Disconnect()
		}
		fmt.Println(ch.Ref())
		time.Sleep(3 * testTimeout)
		return 0
	case "attach": // says how an attach ends
		ref, err := socket.ParseRef(arg)
		if err == nil {
			_, err = socket.Attach(context.Background(), ref, socket.Connect{Attempts: 1}, nil)
		}
		fmt.Println(errors.Is(err, socket.ErrWrongPeer), err)
		return 0
	case "take-names", "swap-dir": // attackers
		dir, victim, _ := strings.Cut(arg, ":")
		attacker := takeNames
		if mode == "swap-dir" {
			attacker = swapDir
		}
		return fatal(attacker(dir, victim))
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
