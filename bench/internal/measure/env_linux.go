package measure

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func machine(e *Env) {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(name) {
		case "model name":
			e.CPU = value
		case "flags":
			e.Virtual = slices.Contains(strings.Fields(value), "hypervisor")
		}
	}
	if _, err := os.Stat("/sys/hypervisor/type"); err == nil {
		e.Virtual = true
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		e.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
}
