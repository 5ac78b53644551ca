// Package broadcast is a record ring with one writer and many readers, over shared memory that
// the writer alone can write.
//
// # Shape
//
// The writer makes one segment ([Create]) and hands its descriptor to all readers, who map it
// read-only ([Open]). Publishing a record is one copy into the ring, whatever the number of readers, and
// reading it is one copy out. A reader that wants to be rung for while it sleeps, or to be waited for,
// makes a small segment of its own ([CreateReader]) and hands that to the writer, who
// maps it read-only ([OpenReader], [Writer.Add]):
//
//	            writer                                reader (any number)
//	segment (writer writes, all read)      own segment (reader writes, writer reads)
//	+---------+---------------------+      +----------------------------------------+
//	| control | ring -> all readers |      | position, waiting                      |
//	+---------+---------------------+      +----------------------------------------+
//
// The algorithm takes plain byte slices and knows no file descriptor: tests and examples run it
// on heap memory, others run it on mappings.
//
// # Readers
//
// The writer never waits for a lossy reader. One that has been lapped goes on with a newer record,
// and learns exactly how many it has lost ([Record.Lost]).
//
// A reliable reader ([Reliable]) loses nothing: a writer that has no space left waits for it, until a
// limit that the user states. Then the writer cuts it off and goes on. The reader is told, by
// [ErrCutOff], and no other reader notices.
//
// # Threat model
//
// The writer is another process than the readers, and it may be broken or hostile, and so may be
// any reader. Each can write any bytes into its own segment at any time, and nothing into any other.
// Words are loaded once, checked, and then used. Words of the writer that make no sense are a sticky
// [*ring.CorruptError] of the reader that finds them, never a panic, and never lead out of the memory; each call
// of a reader takes a bounded number of steps. Words of a reader that make no sense cut off that reader. Payloads are
// copied before anybody sees them.
//
// What a reader can do to others is to wake those that are parked for nothing, since all sleep on the same word.
// Misuse by the local program (two claims at once, a commit larger than its claim) is a bug in the
// program and panics.
//
// # Origin
//
// That a reader notices afterwards that what it has copied was overwritten, by a position that the writer stores
// before it writes, is the way of the broadcast buffer of Agrona
// (org.agrona.concurrent.broadcast), by Real Logic, where that position is called tail intent. New
// here are an intent that runs ahead in steps, so that a small record costs one cache line; marks, so that losses are counted
// exactly and readers can begin with old records; reliable readers; and readers that park.
package broadcast
