//go:build linux

package hostile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// maxMessage and ringSize are what the honest side uses: small, so that what is too much
// is soon reached.
const (
	maxMessage = 1 << 20
	ringSize   = 128 << 10
)

// peer is the hostile side of a link, of either driver and role. It has the honest ways
// to say and to hear something, and what to misuse.
type peer struct {
	row     *row
	driver  string
	isHost  bool
	codec   string
	control *net.UnixConn // the control socket, over which the socket driver also has its link
	path    string        // where the honest worker listens, if it does

	// handover is where a host passes connections to a worker without a path.
	handover *net.UnixConn
	honest   *process.Process // the worker, of a hostile host
	held     []net.Conn       // further connections, which stay open

	sending sync.Mutex
	in      *bufio.Reader // of the socket driver
	// The rest is of shm.
	ours, theirs *ring.Segment
	records      records
	consumer     *ring.Consumer

	tx      atomic.Uint64
	acted   chan struct{} // closed when the row is done
	answers sync.Map      // tx to chan drivers.Frame
}

// hostileWorker is the hostile side as a worker.
func hostileWorker() error {
	s, err := drivers.LoadStartup()
	if err != nil {
		return err
	}
	p, err := newPeer(s.Driver, s.Codec)
	if err != nil {
		return err
	}
	if p.control, err = process.Control(s); err != nil {
		return err
	}
	var options struct {
		Handover int `cbor:"5,keyasint"`
	}
	if err := ipc.CBOR.Decode(s.DriverData, &options); err == nil && options.Handover > 0 {
		conn, err := net.FileConn(os.NewFile(uintptr(options.Handover), "handover"))
		if err != nil {
			return err
		}
		p.handover = conn.(*net.UnixConn)
	}
	return p.run()
}

// hostileHost is the hostile side as a host. It starts the honest worker.
func hostileHost() error {
	p, err := newPeer(os.Getenv(driverEnv), "cbor")
	if err != nil {
		return err
	}
	p.isHost = true
	os.Unsetenv(roleEnv)
	cmd := &drivers.Command{
		Cmd: &exec.Cmd{
			Path: "/proc/self/exe", Args: []string{"tandem-worker:honest"}, Stderr: os.Stderr,
			ExtraFiles: []*os.File{os.NewFile(reportFD, "report")},
		},
		Startup: drivers.StartupData{
			Protocol: drivers.ProtocolVersion, Driver: p.driver, Codec: p.codec, HostPID: os.Getpid(), MaxMessage: maxMessage, Depth: 1,
			Timeouts: drivers.Timeouts{Start: p.row.startTimeout(), Host: p.row.startTimeout(), Call: p.row.callTimeout(), Grace: grace},
		},
	}
	options := map[int]any{1: ringSize, 2: 0, 3: false}
	if p.row.path {
		p.path = os.Getenv("TMPDIR") + fmt.Sprintf("/h%d", os.Getpid())
		cmd.Startup.Address, options = p.path, map[int]any{}
	}
	inherit := func(add func(*os.File) int) error {
		if p.driver == "socket" && !p.row.path {
			ours, theirs, err := fdpass.Socketpair(syscall.SOCK_SEQPACKET)
			if err != nil {
				return err
			}
			p.handover, options = ours, map[int]any{5: add(theirs)}
		}
		var err error
		cmd.Startup.DriverData, err = ipc.CBOR.Append(nil, options)
		return err
	}
	p.honest, _, err = process.Spawn(context.Background(), cmd, process.Options{Inherit: inherit}, func(control *net.UnixConn) error {
		p.control = control
		return nil
	})
	if err != nil {
		return err
	}
	cmd.Cmd.ExtraFiles[0].Close() // the honest side has it
	go func() {                   // whatever it waits for
		<-p.honest.Done()
		os.Exit(0)
	}()
	return p.run()
}

func newPeer(driver, codec string) (*peer, error) {
	name := os.Getenv(rowEnv)
	r := find(name)
	if r == nil {
		return nil, fmt.Errorf("there is no row %q", name)
	}
	return &peer{row: r, driver: driver, codec: codec, acted: make(chan struct{})}, nil
}

// run does what the row says, and waits for the honest side to end the link, or this
// process.
func (p *peer) run() error {
	if p.row.hello != nil {
		if err := p.row.hello(p); err != nil {
			return err
		}
		if !p.row.links {
			return p.linger()
		}
	} else if err := p.link(p.sayHello); err != nil {
		return err
	}
	if p.isHost {
		p.send(drivers.Frame{Kind: drivers.KindRequest, Tx: p.nextTx(), Method: work.Info().ID})
	}
	if p.row.serves {
		go p.serve()
	}
	if p.row.act != nil {
		if err := p.row.act(p); err != nil {
			return err
		}
	}
	close(p.acted)
	return p.linger()
}

// lingering keeps a peer from being collected, and with that its sockets from being closed, while
// nothing but the honest side goes on.
var lingering *peer

// linger waits for the end: a hostile worker is ended by its honest host, and a hostile
// host ends with its honest worker.
func (p *peer) linger() error {
	lingering = p
	for {
		time.Sleep(time.Hour)
	}
}

// hello returns the hello that an honest peer would say.
func (p *peer) hello() drivers.Hello {
	layout := 1
	if p.driver == "shm" {
		layout = ring.LayoutVersion
	}
	return process.Hello(drivers.Hello{Codec: p.codec, MaxMessage: maxMessage, Window: drivers.DefaultWindow}, p.driver, layout)
}

// sayHello says what an honest peer would say.
func (p *peer) sayHello() error { return p.say(p.hello()) }

// say says a hello, with a segment if the driver needs one.
func (p *peer) say(h drivers.Hello) error {
	b, err := drivers.AppendHello(nil, h)
	if err != nil {
		return err
	}
	return p.sayBytes(b)
}

func (p *peer) sayBytes(b []byte) error {
	if p.driver == "socket" {
		_, err := p.control.Write(b)
		return err
	}
	if err := p.segment(); err != nil {
		return err
	}
	return fdpass.Send(p.control, b, p.ours.File())
}

func (p *peer) segment() (err error) {
	if p.ours == nil {
		p.ours, err = ring.Create(ringSize)
	}
	return err
}

// link says a hello and hears the other's.
func (p *peer) link(say func() error) error {
	if err := say(); err != nil {
		return err
	}
	if p.driver == "socket" {
		_, err := drivers.ReadHello(p.control)
		p.in = bufio.NewReader(p.control)
		return err
	}
	from := fdpass.Reader{Conn: p.control}
	defer from.Close()
	if _, err := drivers.ReadHello(&from); err != nil {
		return err
	}
	if len(from.Files) != 1 {
		return fmt.Errorf("the honest side has passed %d descriptors", len(from.Files))
	}
	var err error
	if p.theirs, err = ring.Open(from.Files[0]); err != nil {
		return err
	}
	if _, p.consumer, err = ring.Join(p.ours.Bytes(), p.theirs.Bytes()); err != nil || p.row.confirms {
		return err
	}
	return process.Confirm(p.control, p.driver)
}

// nextTx returns a tx that no other request of this side has, and that no row makes up.
func (p *peer) nextTx() uint64 {
	tx := 1<<40 + p.tx.Add(2)
	if !p.isHost {
		tx |= 1
	}
	return tx
}

// send sends a frame, or as much of it as the honest side takes.
func (p *peer) send(f drivers.Frame) bool {
	return p.sendRaw(f.Tag(), append(f.AppendHeader(nil), f.Payload...))
}

// sendRaw sends a message with any tag and content. It returns false when nobody hears it
// any more.
func (p *peer) sendRaw(tag byte, body []byte) bool {
	if p.driver == "shm" {
		p.message(tag, body)
		return true
	}
	p.sending.Lock()
	defer p.sending.Unlock()
	b := append(prefix(len(body), tag), body...)
	if len(b) > 2<<10 {
		b = append(b, 1)
	}
	_, err := p.control.Write(b)
	return err == nil
}

// prefix is that of a frame on a socket.
func prefix(size int, tag byte) []byte {
	return binary.LittleEndian.AppendUint64(nil, uint64(uint32(size))|uint64(tag)<<32)
}

// receive waits for a frame.
func (p *peer) receive() (drivers.Frame, error) {
	if p.driver == "shm" {
		for {
			m, ok, err := p.consumer.Message()
			switch {
			case err != nil:
				return drivers.Frame{}, err
			case ok:
				return parse(m.Tag, bytes.Clone(m.Data))
			}
			time.Sleep(50 * time.Microsecond) // rows write the words that a sleeper needs
		}
	}
	var head [8]byte
	if _, err := io.ReadFull(p.in, head[:]); err != nil {
		return drivers.Frame{}, err
	}
	word := binary.LittleEndian.Uint64(head[:])
	size := int(uint32(word))
	body := make([]byte, size)
	if len(head)+size > 2<<10 {
		body = make([]byte, size+1)
	}
	if _, err := io.ReadFull(p.in, body); err != nil {
		return drivers.Frame{}, err
	}
	return parse(byte(word>>32), body[:size])
}

func parse(tag byte, body []byte) (f drivers.Frame, err error) {
	err = f.Parse(tag, body)
	return f, err
}

// request waits for the next request of the honest side.
func (p *peer) request() (drivers.Frame, error) {
	for {
		f, err := p.receive()
		if err != nil || f.Kind == drivers.KindRequest {
			return f, err
		}
	}
}

// serve answers as an honest peer does, until the link ends or the honest side says
// goodbye. Then a hostile worker ends in order.
func (p *peer) serve() {
	for {
		f, err := p.receive()
		if err != nil {
			return
		}
		switch f.Kind {
		case drivers.KindRequest:
			// Who reads does not write, since the honest side may do that first.
			go func() {
				if f.Method == last.Info().ID {
					<-p.acted
				}
				p.reply(f)
			}()
		case drivers.KindPing:
			go p.send(drivers.Frame{Kind: drivers.KindPong})
		case drivers.KindResponse, drivers.KindError:
			if c, ok := p.answers.LoadAndDelete(f.Tx); ok {
				c.(chan drivers.Frame) <- f
			}
		case drivers.KindGoodbye:
			if !p.isHost {
				os.Exit(0)
			}
		}
	}
}

// reply answers a request rightly.
func (p *peer) reply(f drivers.Frame) { p.replyWith(f, nil) }

// replyWith is reply with metadata.
func (p *peer) replyWith(f drivers.Frame, meta *drivers.Metadata) {
	response := f.Payload
	if f.Method == sum.Info().ID {
		n := 0
		var numbers []int
		if ipc.CBOR.Decode(f.Payload, &numbers) != nil {
			return
		}
		for _, k := range numbers {
			n += k
		}
		response, _ = ipc.CBOR.Append(nil, n)
	}
	p.send(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx, Payload: response, Meta: meta})
}

// probe checks that the honest side answers a request, in a row that serves.
func (p *peer) probe() error {
	answer := make(chan drivers.Frame, 1)
	tx, want := p.nextTx(), []byte("are you there?")
	p.answers.Store(tx, answer)
	if !p.send(drivers.Frame{Kind: drivers.KindRequest, Tx: tx, Method: echo.Info().ID, Payload: want}) {
		return errors.New("the honest side does not take a request")
	}
	if f := <-answer; f.Kind != drivers.KindResponse || !bytes.Equal(f.Payload, want) {
		return fmt.Errorf("the honest side has answered with a frame of kind %v, payload %q", f.Kind, f.Payload)
	}
	return nil
}
