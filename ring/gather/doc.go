// Package gather reads the records of many producers with one consumer, in fair order.
//
// # Shape
//
// Each producer has a ring of its own (package ring), in memory that it alone can write. A
// [Consumer] reads all of them in turns and, when nothing is there, parks once for all:
//
//	process A   ring A -->\
//	process B   ring B --->  Consumer: Next, Next, Next, ... Wait
//	process C   ring C -->/
//
// No word is shared between producers. So one that crashes in the middle of a record, is
// stopped, or writes nonsense disturbs no other: there is no lock that it could hold, and no
// position that it could have taken.
//
// # Ends
//
// Producers come and go while the consumer runs. Each that was added is reported exactly once
// when it is out, by an error of [Consumer.Next] that names it:
//
//   - It was interrupted, as [ring.Link] does when the producer's process is gone. All
//     that it had published is read before that; a record that it had not finished is not.
//   - Its ring is corrupt. What it had published before is read.
//   - [Consumer.Remove] was called. What is left is not read.
//
// After the report the Consumer touches neither its ring nor its memory, so this is where a
// program closes the link.
//
// # Order and fairness
//
// The records of one producer come in their order; between producers there is none. Each
// gets a turn after every other: up to 64 records or 64 KiB, see [Consumer.SetQuantum],
// and one record may exceed that; for split messages see [Consumer.Message]. So a producer waits for its turn for no longer than it takes
// to read a quantum of each other one, however full their rings are.
//
// # Cost
//
// Next allocates nothing, and costs a few nanoseconds more than that of [ring.Consumer].
// When nothing is there it looks at each ring once. A sleep is one system call for up to 127
// rings, and takes one thread (Linux 5.16, see [ring.Group]).
package gather
