package sealed

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// requiredSeals make it safe to map a stranger's memory, and to let a stranger
// map ours:
//
//	SHRINK, GROW  the size that was checked stays, so that no access is SIGBUS
//	FUTURE_WRITE  nobody gets a new writable mapping, writes, or punches holes;
//	              the owner's mapping, made before, stays writable
//	SEAL          the set of seals is final
//
// Frozen memory has one more, WRITE: there is no writable mapping, nor will there be.
const requiredSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE | unix.F_SEAL_SEAL

// sealNames spells a set of seals out.
func sealNames(seals int) string {
	var names []string
	for _, s := range []struct {
		bit  int
		name string
	}{
		{unix.F_SEAL_SEAL, "SEAL"},
		{unix.F_SEAL_SHRINK, "SHRINK"},
		{unix.F_SEAL_GROW, "GROW"},
		{unix.F_SEAL_WRITE, "WRITE"},
		{unix.F_SEAL_FUTURE_WRITE, "FUTURE_WRITE"},
		{unix.F_SEAL_EXEC, "EXEC"},
	} {
		if seals&s.bit != 0 {
			names = append(names, s.name)
			seals &^= s.bit
		}
	}
	if seals != 0 {
		names = append(names, fmt.Sprintf("%#x", seals))
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, "|")
}
