// Package socket is the driver that links a host and its workers by Unix
// sockets. It is the default: it runs wherever Go has Unix sockets, a host can
// disconnect from a worker and come back, and a worker can outlive its host.
//
//	w, err := worker.Spawn(ctx, exec.Command("./counter"), socket.Driver{Detached: true})
//	w.Channel().Disconnect()   // the worker lives on
//	w.Channel().Reconnect(ctx) // the same worker again, or an error
//
// # Wire
//
// The first link of a worker runs over the socketpair that it inherits. Later
// ones run over connections to the socket at [Driver].Path, or, if the worker has
// no path, over socketpairs of which the host passes one end: it sends one byte
// with the descriptor over a second socketpair that the worker inherits. Each
// side opens with its hello. Then each message is
//
//	 0               4     5           8                  8 + size
//	+---------------+-----+-----------+--------+---------+-----+
//	| size          | tag | n   0   0 | header | payload | end |
//	+---------------+-----+-----------+--------+---------+-----+
//
// with size the bytes of header and payload together, little-endian, and tag
// and header as [drivers.Frame] has them. The byte end is there if 8 + size is more
// than 2048: 1, or 0 if the sender gave up halfway and filled the rest with
// zeros, for then the receiver drops the message. n is how many open files the message has, at
// most [ipc.MaxFiles]; they come with the control message of its first byte. A size over the agreed
// limit, a bit set in the two bytes of zeros, files that are not as n says, another end and a header that cannot
// be parsed end the link with an error that wraps [ipc.ErrProtocol]. The tag 0x40,
// with a tx of 0 and no more, is the driver's own: the host detaches, and the
// worker is to stay.
//
// # Trust
//
// The peer is a process of the same user, or of the user that the host started
// the worker as; the kernel says so before a byte is read. It may still be
// broken or hostile: it can end its own link and make it wait, and make this
// side spend one message of the agreed size, but nothing else. A host that
// reconnects also compares the process id that the kernel gives for the other
// end, and the start time and the nonce of the first hello, so that it never
// takes another process for its worker.
//
// Other users of the machine may write to the directory of the socket, as they
// may to /tmp. The driver opens the directory once and looks names up there, does
// not follow symbolic links in it, and removes only sockets that its worker, or a
// dead process of the worker's user, has made. The directory of a detached worker
// has a random name, and only its user can enter it.
package socket
