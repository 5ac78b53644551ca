package drivertest

import (
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/tandemipc/tandem/drivers"
)

// hello is a hello of this worker that agrees with its host, but for edit.
func (w *worker) hello(edit func(*drivers.Hello)) ([]byte, error) {
	h := drivers.Hello{
		Protocol: drivers.ProtocolVersion, Driver: w.startup.Driver, Codec: codecName, ByteOrder: drivers.ByteOrderMark,
		MaxMessage: w.startup.MaxMessage, PID: os.Getpid(), Nonce: 1, Window: drivers.DefaultWindow,
	}
	edit(&h)
	return drivers.AppendHello(nil, h)
}

// sayHello opens the link by hand, as a worker of another version would.
func (w *worker) sayHello(edit func(*drivers.Hello)) error {
	b, err := w.hello(edit)
	if err != nil {
		return err
	}
	return w.open(b)
}

// sayGarbage opens the link with something else than a hello.
func (w *worker) sayGarbage() error {
	return w.open([]byte("GET / HTTP/1.1\r\nHost: tandem\r\n\r\n"))
}

// open writes b where a hello belongs, and waits for the host to hang up.
func (w *worker) open(b []byte) error {
	f, err := w.startup.TakeControl()
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	for buf := make([]byte, 4<<10); err == nil; {
		_, err = f.Read(buf)
	}
	return nil
}

// acceptFrom accepts a link from a host of another version, which is a
// goroutine of the worker, and fails as Accept does.
func (w *worker) acceptFrom(edit func(*drivers.Hello)) error {
	control, err := w.startup.TakeControl()
	if err != nil {
		return err
	}
	defer control.Close()
	host, worker, err := socketPair()
	if err != nil {
		return err
	}
	defer host.Close()
	b, err := w.hello(edit)
	if err != nil {
		return err
	}
	go func(c net.Conn) {
		_, _ = c.Write(b)
		for buf, err := make([]byte, 4<<10), error(nil); err == nil; {
			_, err = c.Read(buf)
		}
	}(host)

	s := &drivers.StartupData{
		Protocol: w.startup.Protocol, Driver: w.startup.Driver, Codec: w.startup.Codec, Address: w.startup.Address,
		DriverData: w.startup.DriverData, HostPID: w.startup.HostPID, Timeouts: w.startup.Timeouts,
		MaxMessage: w.startup.MaxMessage, Control: worker,
	}
	a, ok := drivers.Find(s.Driver)
	if !ok {
		return fmt.Errorf("driver %q is not linked in", s.Driver)
	}
	if w.endpoint, err = a.Open(s, slog.Default()); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer w.endpoint.Close()
	_, err = w.accept()
	return fmt.Errorf("accept: %w", err)
}
