// Package ring is a lock-free record ring between two processes: one producer
// and one consumer in each direction, over shared memory that each side alone
// can write.
//
// # Shape
//
// Each side makes one segment ([Create]) and hands its descriptor to the peer,
// who maps it read-only ([Open]). A segment holds the owner's control words and
// the ring that the owner sends with. [Join] turns the two segments into a
// [Producer] for the local ring and a [Consumer] for the remote one:
//
//	          process A                          process B
//	segment A (A writes, B reads)      segment B (B writes, A reads)
//	+---------+----------------+       +---------+----------------+
//	| control | ring A -> B    |       | control | ring B -> A    |
//	+---------+----------------+       +---------+----------------+
//
// [Exchange] does all of this over a connection between the two: it makes the segments,
// passes and checks them, joins them, and watches for the peer's death. What it returns is a
// [Link]. Package gather reads many rings with one consumer.
//
// The algorithm takes plain byte slices and knows no file descriptor: tests and
// examples run it on heap memory, a driver runs it on mappings.
//
// # Cost
//
// A record is one 64-bit word followed by its payload. Sending one is a copy, an
// atomic store and a load; receiving one is an atomic load. While both sides are
// busy there is no system call, no lock, no clock and no allocation. A side that
// has nothing to do spins for as long as that has lately paid off, then parks in
// the kernel, and is rung exactly once.
//
// # Threat model
//
// The peer is another process, and it may be broken or hostile. It can write any
// bytes into its own segment at any time, also while they are being read here.
// It cannot write the local segment: the kernel refuses that once the segment is
// sealed. It follows that
//
//   - a word that the peer writes is loaded once into a local variable, checked,
//     and only then used; nothing is read twice;
//   - positions and lengths that fail their check make the direction corrupt: a
//     sticky [*CorruptError], never a panic, never memory outside of the ring;
//   - payload bytes that lie in the ring ([Record.Data], and [Message.Data] when
//     it is not Owned) can change under the reader. Copy what is to be validated,
//     then validate the copy, then use it.
//
// A hostile peer can still refuse to read, refuse to answer, or send nonsense
// that is well framed; limits on time and on content belong to the layers above.
// Misuse by the local program (two claims at once, a commit larger than its
// claim) is a bug in the program and panics.
package ring
