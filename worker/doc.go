// Package worker runs Go code in processes of their own and calls it.
//
// A host starts a worker with [Spawn] and calls typed methods, declared with
// [ipc.NewMethod], on the [Client] that it gets:
//
//	w, err := worker.Spawn(ctx, exec.Command("./counter"), shm.Driver{})
//	if err != nil { ... }
//	defer w.Close()
//	res, err := Count.Call(ctx, w, CountRequest{Path: "x.txt"})
//
// The worker's program registers handlers and serves:
//
//	s := worker.NewServer()
//	worker.Handle(s, Count, count)
//	if err := s.Serve(ctx); err != nil { ... }
//
// Package pool, in this directory, shares calls among many workers, and calls a method
// for each request of a sequence.
//
// A client can outlive its process: see [WithRestart], [WithRetry], [WithHeartbeat] and
// [WithEvents]. With the socket driver a process can outlive its host: see [Attach].
//
// A sender waits for a receiver that is behind. Each side takes 16 MiB of requests, and
// as many of notifications, that it has not finished with; more wait at their sender.
// Nothing is refused or lost for that.
//
// The host chooses the driver. The worker uses the same one, if its program imports the
// driver's package. [Self] and [Main] let one program be both host and worker.
package worker
