package measure

import (
	"runtime"
	"time"
)

// Env is the machine and the build that figures come from.
type Env struct {
	Time       string `json:"time"` // of the run's start, RFC 3339
	OS         string `json:"os"`
	Arch       string `json:"arch"`
	CPU        string `json:"cpu"`     // model
	Cores      int    `json:"cores"`   // that this process may use
	Virtual    bool   `json:"virtual"` // runs under a hypervisor
	Kernel     string `json:"kernel"`
	Go         string `json:"go"`
	GOMAXPROCS int    `json:"gomaxprocs"`
	ClockNS    int64  `json:"clock_ns"` // cost of one reading of the clock
}

// Environment describes this machine.
func Environment() Env {
	e := Env{
		Time:       time.Now().Format(time.RFC3339),
		OS:         runtime.GOOS,
		Arch:       runtime.GOARCH,
		Cores:      runtime.NumCPU(),
		Go:         runtime.Version(),
		GOMAXPROCS: runtime.GOMAXPROCS(0),
		ClockNS:    int64(ClockCost()),
	}
	machine(&e)
	return e
}
