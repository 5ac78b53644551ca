// Package netconn makes connections of package net between a host and its worker, over whatever
// driver they use: gRPC, net/http with HTTP/2 and WebSockets, net/rpc and whatever else takes a
// [net.Conn] or a [net.Listener] run over shared memory as they run over a Unix socket.
//
// One side listens under a name, and the other dials it:
//
//	// worker
//	s := worker.NewServer()
//	go http.Serve(netconn.Listen(s, "web"), handler)
//	return s.Serve(ctx)
//
//	// host
//	t := &http.Transport{DialContext: netconn.NewDialer(w, "web").DialContext}
//
// It may be the other way round, too: the host listens on its client, and a handler of the worker
// dials with worker.Host(ctx).
//
// A connection is a stream of the link, and there may be as many as there may be streams: see
// docs/netconn.md for how connections end, and for what they cost.
package netconn
