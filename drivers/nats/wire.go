package natsipc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// version is that of the messages of this package.
const version = "1"

// Headers of messages. The payload is the encoded request, the encoded response, or an error as
// [ipc.AppendError] encodes it. A request or a response without metadata that is not large has no headers, since these
// cost as much as all the rest of it: its payload begins with what headerCall or headerAnswer would say, and a line feed.
const (
	headerCall    = "Tandem-Call"    // of a request: see callHeader
	headerMeta    = "Tandem-Meta"    // a field of its metadata
	headerAnswer  = "Tandem-Answer"  // of an answer: one of the answers below
	headerHeader  = "Tandem-Header"  // a field of its header
	headerTrailer = "Tandem-Trailer" // a field of its trailer
	headerControl = "Tandem-Control" // what a caller says of a call: one of the controls below; of a heartbeat: where to say it
	headerStatus  = "Status"         // what NATS itself says
)

// smallPayload is up to what size a request or a response is copied to stand behind a line. A header costs less than the copy of a larger one.
const smallPayload = 8 << 10

// buffers are memory for payloads of at most smallPayload and their lines.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// publishLine publishes a message without headers: a line, and a small payload.
func publishLine(nc *nats.Conn, subject, reply string, line func([]byte) []byte, payload []byte) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	*buffer = append(append(line((*buffer)[:0]), '\n'), payload...)
	if reply == "" {
		return nc.Publish(subject, *buffer) // which copies it
	}
	return nc.PublishRequest(subject, reply, *buffer)
}

// lineOf returns what a header of a message says, or the line that the message has in its place, and the payload.
func lineOf(m *nats.Msg, header string) (line, payload []byte) {
	if values := m.Header[header]; len(values) > 0 {
		return []byte(values[0]), m.Data
	}
	const longest = 512
	if end := bytes.IndexByte(m.Data[:min(len(m.Data), longest)], '\n'); end >= 0 {
		return m.Data[:end], m.Data[end+1:]
	}
	return nil, m.Data
}

// statusNobody is the status with which NATS says that nobody gets a message.
const statusNobody = "503"

// What an answer says.
const (
	answerOK      = "ok"
	answerBuffers = "buffers" // the same, and the response has some: see attach.go
	answerError   = "error"
	answerGone    = "gone"    // the server, or the worker behind it, has ended before it answered
	answerOverdue = "overdue" // the time of the call is over
	answerAlive   = "alive"   // there is no answer yet
	answerLarge   = "large"   // the response has as many bytes as the payload says, and has to be fetched: see large.go
)

// What a caller says of a call.
const (
	controlAlive    = "alive"    // it waits, and has got a heartbeat
	controlCancel   = "cancel"   // it has given up
	controlDeadline = "deadline" // the same, since its time is over
)

// Subjects are names with dots. What is under the one of a service is:
//
//	<prefix>.<service>.call.<method>            requests, for one of those that serve
//	<prefix>.<service>.control.<instance>.<n>   what callers say of call n of that instance
//	<prefix>.<service>.stream.<method>          openings of streams, for one of those that serve
//	<prefix>.<service>.flow.<instance>.<n>      what callers send of stream n of that instance
const (
	tokenCall    = "call"
	tokenControl = "control"
	tokenStream  = "stream"
	tokenFlow    = "flow"
)

// maxSubject bounds a subject, since NATS ends a connection that has too long ones.
const maxSubject = 1024

// byteOrder is how this machine stores numbers, since messages of the codec Fixed cross as memory.
var byteOrder = map[uint16]string{
	binary.LittleEndian.Uint16([]byte{1, 2}): "le", binary.BigEndian.Uint16([]byte{1, 2}): "be",
}[drivers.ByteOrderMark]

// callHeader is what the header of a request says besides its metadata: version, method, codec, byte
// order, timeout, interval of heartbeats, attempts and flags, with spaces between them.
type callHeader struct {
	id         uint64
	codec      string
	order      string
	timeout    time.Duration // 0 if there is none
	heartbeat  time.Duration
	attempts   int
	oneWay     bool
	idempotent bool
	attached   bool // the request has buffers: see attach.go
}

const callFields = 8

func (h *callHeader) String() string { return string(h.append(make([]byte, 0, 80))) }

func (h *callHeader) append(b []byte) []byte {
	b = append(b, version+" "...)
	b = strconv.AppendUint(b, h.id, 16)
	b = append(append(append(append(b, ' '), h.codec...), ' '), h.order...)
	for _, n := range []int64{int64(h.timeout), int64(h.heartbeat), int64(h.attempts)} {
		b = strconv.AppendInt(append(b, ' '), n, 10)
	}
	b = append(b, " -"...)
	if h.oneWay {
		b = append(b, 'n')
	}
	if h.idempotent {
		b = append(b, 'i')
	}
	if h.attached {
		b = append(b, 'a')
	}
	return b
}

// maxAttempts bounds what a request may ask for: each may end a worker of a pool.
const maxAttempts = 16

// parseCall undoes String.
func parseCall(s string) (h callHeader, err error) {
	var fields [callFields]string
	n, rest, more := 0, s, s != ""
	for ; more && n < callFields; n++ {
		fields[n], rest, more = strings.Cut(rest, " ")
	}
	switch {
	case n == 0:
		return h, ipc.Errorf(ipc.CodeInvalidArgument, "tandem: the request has no header %s", headerCall)
	case fields[0] != version:
		return h, ipc.Errorf(ipc.CodeFailedPrecondition, "%w", &ipc.MismatchError{What: "version of the protocol over NATS", Local: version, Remote: fmt.Sprintf("%.20q", fields[0])})
	case n < callFields:
		return h, malformed(headerCall, s)
	}
	var timeout, heartbeat, attempts int64
	for i, n := range []*int64{&timeout, &heartbeat, &attempts} {
		if *n, err = strconv.ParseInt(fields[4+i], 10, 64); err != nil || *n < 0 {
			return h, malformed(headerCall, s)
		}
	}
	if h.id, err = strconv.ParseUint(fields[1], 16, 64); err != nil || h.id == 0 {
		return h, malformed(headerCall, s)
	}
	h.codec, h.order = fields[2], fields[3]
	h.timeout, h.heartbeat, h.attempts = time.Duration(timeout), time.Duration(heartbeat), int(min(attempts, maxAttempts))
	h.oneWay, h.idempotent, h.attached = strings.Contains(fields[7], "n"), strings.Contains(fields[7], "i"), strings.Contains(fields[7], "a")
	return h, nil
}

// cut returns what may stand in an error of something that a peer has sent.
func cut(s string) string { return s[:min(len(s), 64)] }

func malformed(header, value string) error {
	return ipc.Errorf(ipc.CodeInvalidArgument, "%w: malformed header %s: %.100q", ipc.ErrProtocol, header, value)
}

// setMetadata puts metadata into a message: each field as key=value, the value escaped.
func setMetadata(m *nats.Msg, header string, md ipc.Metadata) {
	for _, f := range md {
		m.Header[header] = append(m.Header[header], f.Key+"="+url.QueryEscape(f.Value))
	}
}

// metadataOf undoes setMetadata.
func metadataOf(m *nats.Msg, header string) (ipc.Metadata, error) {
	values := m.Header[header]
	if len(values) == 0 {
		return nil, nil
	}
	md := make(ipc.Metadata, 0, min(len(values), ipc.MaxMetadata/32))
	for _, s := range values {
		key, escaped, ok := strings.Cut(s, "=")
		value, err := url.QueryUnescape(escaped)
		if !ok || err != nil || len(md) == cap(md) && len(md) > ipc.MaxMetadata/32 {
			return nil, malformed(header, s)
		}
		md = append(md, ipc.Field{Key: key, Value: value})
	}
	return md, md.Check()
}

// subjectOf returns the end of a subject that stands for a method: its name, with whatever may
// not be in a subject as % and two digits.
func subjectOf(method string) string {
	var b strings.Builder
	for i := range len(method) {
		switch c := method[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		case c == '.' && i > 0 && i < len(method)-1 && method[i-1] != '.':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// methodOf undoes subjectOf.
func methodOf(subject string) (string, error) { return url.PathUnescape(subject) }

// validToken reports whether s can be a part of a subject.
func validToken(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
	}) < 0
}
