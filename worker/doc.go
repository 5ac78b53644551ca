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
// A [Pool] shares calls among many workers, and [Map] calls a method for each
// request of a sequence. A client can outlive its process: see [WithRestart],
// [WithRetry], [WithHeartbeat] and [WithEvents]; and with the socket driver a
// process its host: see [Attach].
//
// The driver is the host's choice; the worker finds it in what the host passed,
// among those that are linked in. [Self] and [Main] let one program be both.
package worker
