package main

import (
	"path/filepath"
)

// iceoryx2 is the program in the directory of that name, over the crate iceoryx2: shared
// memory between processes, without copies and without a daemon. As its documentation and
// its own benchmarks do, both ends poll; only events sleep in the kernel. Publishers loan
// memory and send it; a service has one publisher and one subscriber. One way, a subscriber
// may be behind by as many samples as fit into 1 MiB, at most 1024, and the publisher waits
// rather than lose one. The program is optimized as its benchmarks are, with lto and one
// unit of code.
//
//   - publish-subscribe is a raw echo: the message is copied into the loaned memory by
//     both sides, and read where it lies.
//   - copied is the same, and both sides also copy the message out of the sample.
//   - loaned is the same as the first, without the copy: only the ends of the message are written.
//   - request-response is a typed call: each answer belongs to its request.
//   - event is a notification without a message, for which both sides sleep.
var iceoryx2 = foreign{
	name: "iceoryx2", most: 16 << 20,
	build: func() ([]string, error) {
		if err := tools("cargo"); err != nil {
			return nil, err
		}
		dir, err := unpack("iceoryx2")
		if err != nil {
			return nil, err
		}
		target := filepath.Join(dir, "target")
		if err := run(dir, "cargo", "build", "--release", "--locked", "--target-dir", target); err != nil {
			return nil, err
		}
		return []string{filepath.Join(target, "release", "tandem-bench-iceoryx2")}, nil
	},
}
