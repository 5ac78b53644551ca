// Package shm is the driver that links a host and its worker through shared
// memory: two lock-free rings (package ring), one for each direction.
//
//	w, err := worker.Spawn(ctx, cmd, shm.Driver{})
//
// Importing the package links it into a worker.
//
// # Start
//
// Host and worker share a control socket, a socketpair that the worker inherits.
// Over it each side sends its hello, with the descriptor of the memory that it
// will write, and then says whether it could map the other's. There is no name in any file system and nothing in /dev/shm, so
// nothing can be left behind.
//
//	host                                worker
//	  | hello, descriptor of its segment   |
//	  |----------------------------------->|  checks both, maps read-only
//	  |<-----------------------------------|
//	  |   hello, descriptor of its segment |
//	  |<== ready, or the reason why not ==>|
//	  :                                    :
//	  |<====== frames in two rings =======>|
//	  |<= files that frames name, before ==>|
//	  :                                    :
//	  | end of file: the peer is gone      |
//
// What frames name and rings cannot carry, such as open files, crosses the control socket in records
// of 16 bytes (control.go).
//
// # Trust
//
// Before a side maps the other's memory it verifies the size and the seals: only
// the maker can ever write it, nobody can resize it. What the peer writes into
// its own memory is checked word by word in package ring. A peer can stop
// answering, and lie within what is well formed, no more.
//
// # Death
//
// The end of the control socket is how a death is noticed. What the peer had
// published until then is still delivered.
//
// The driver needs Linux 5.1 for memfd and F_SEAL_FUTURE_WRITE; on other systems
// starting fails with an error that wraps [ipc.ErrUnsupported] and says what is
// missing.
package shm
