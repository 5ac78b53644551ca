// Package rendezvous is where processes meet that did not start each other: a Unix socket with a name, at
// which one process listens ([Listen], [Serve]) and others connect ([Dial]).
//
// # Names
//
//   - A name with a slash is the path of a socket. A symbolic link there is not followed.
//   - @name is an abstract socket, which has no file and exists on Linux only, within one network namespace.
//     There are no permissions: any process may connect, or take the name first. Only what both sides ask the
//     system about each other ([Gate], [DialOptions]) keeps strangers out.
//   - Any other name, such as quotes, is a socket in the services directory: $XDG_RUNTIME_DIR/tandem, or, if
//     that is unset or not private to this user, tandem/services in the user's cache directory. It is made with
//     mode 0700, and refused if another user could change what is in it. Both sides have to see the same
//     environment.
//
// # One winner
//
// Of processes that listen at one path, however many start, end and are killed at any moment, at most one is
// reachable there, and no socket that a process listens on is removed by another. A file PATH.lock is what they
// agree by. It exists while one of them takes the path, and is not held while it serves.
//
// The lock. A process opens the file, making it if need be, locks it (flock), and then looks whether the file
// that it has locked is the one that has the name now. If not, it begins again. Only who holds the lock of the
// file that has the name removes the name, and does so before it unlocks. So while one holds that lock, every
// other process that opens the name opens that file, and cannot lock it; and whoever waits for a
// file whose name was removed finds out. So at most one process holds the lock of the file that has the name.
// The system unlocks the files of a process that is killed, and the file that is left is locked by the next.
//
// The path. Under the lock a process asks the system whether any process has the socket at the
// path: it connects a socket of another type. The system looks up the socket of that file, and says
// ECONNREFUSED if no process has it open any more, and EPROTOTYPE if one has, even if it does not
// listen yet or its queue is full. The other process does not notice. A socket that no process has
// open can never be listened on again, for it is found by its file. So to remove it harms nobody.
// Only holders of the lock bind a socket to the path, so the path stays free until this one has
// bound its own.
//
// The end. A listener that is closed removes its file without the lock, while it has the socket open:
// as long as it has, others find that the path is in use and leave it. It looks first whether the
// file is that socket's; the number of its inode is not used again while the socket is open.
//
// Between bind and listen nobody can connect. In between, the file gets the rights that the umask
// has taken away. It never has others than it is to have, so there is no moment at which those
// could connect whom the mode keeps out. (Linux. Other systems cannot give a socket a mode before
// it is bound: there, who has been let past the file's mode before that was set, and looks for a
// listener only after listen, gets through. What the gate says of a process holds in any case.)
//
// The proof is about processes that use this package, and that may write the directory: those that
// may replace its files can do so. It does not need the processes to be of one version, or to run
// at the same speed: one that is stopped while it holds the lock makes others fail after ten
// seconds, and is not overtaken.
package rendezvous
