package main

import (
	"os"
	"path/filepath"
	"strings"
	"time"
)

// aeron is the program in the directory of that name, over Aeron's IPC channel: two
// processes of Java, of which the one that answers has the media driver embedded. As
// Aeron's own samples do for latency, both ends poll a subscription with an idle strategy:
// one that spins, or the one with which it comes, BackoffIdleStrategy, which spins, yields
// and at last sleeps for up to a millisecond. The driver has one thread for everything
// (ThreadingMode.SHARED), which suits an IPC channel, whose messages do not pass it, and
// machines with few processors; it sleeps as by default. Its files are in shared memory,
// touched before use; a term has 1 MiB, as a ring of Tandem, or more where the message needs
// it. The MTU of IPC is the largest, so that fewer messages are cut, and
// bounds checks are off, as its documentation of performance says to do. The echo is sent
// from the log of the other direction, so a message is copied once on its way there and
// once back; with "copied" both sides also copy what comes out of the log.
var aeron = foreign{
	name: "aeron", most: 1 << 20, warm: 500 * time.Millisecond,
	build: func() ([]string, error) {
		if err := tools("java", "javac", "mvn"); err != nil {
			return nil, err
		}
		dir, err := unpack("aeron")
		if err != nil {
			return nil, err
		}
		lib, classes := filepath.Join(dir, "lib"), filepath.Join(dir, "classes")
		jars, err := filepath.Glob(filepath.Join(lib, "*.jar"))
		if err != nil || len(jars) == 0 {
			if err := run(dir, "mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory="+lib); err != nil {
				return nil, err
			}
		}
		path := strings.Join([]string{classes, filepath.Join(lib, "*")}, string(os.PathListSeparator))
		files, err := filepath.Glob(filepath.Join(dir, "src", "*.java"))
		if err != nil {
			return nil, err
		}
		if err := run(dir, "javac", append([]string{"-nowarn", "-cp", path, "-d", classes}, files...)...); err != nil {
			return nil, err
		}
		return []string{"java", "-cp", path,
			"--add-opens=java.base/jdk.internal.misc=ALL-UNNAMED", "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
			"-Dagrona.disable.bounds.checks=true", "-XX:+UseSerialGC", "-Xms64m", "-Xmx256m", "Main"}, nil
	},
}
