package measure

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// status reads /proc/PID/status.
func status(pid string) (threads int, rss, peak int64) {
	data, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, 0, 0
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		number, _, _ := strings.Cut(strings.TrimSpace(value), " ")
		switch name {
		case "Threads":
			threads, _ = strconv.Atoi(number)
		case "VmRSS":
			rss = kibibytes(number)
		case "VmHWM":
			peak = kibibytes(number)
		}
	}
	return threads, rss, peak
}

func kibibytes(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n << 10
}

// Process returns the processor time, threads and memory of another process,
// without asking it; ok is false where the system does not tell.
func Process(pid int) (u Usage, ok bool) {
	// The clock of a process, as clock_getcpuclockid(3) makes it.
	const schedClock = 2
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &t); err != nil {
		return Usage{}, false
	}
	u.CPU = time.Duration(t.Nano())
	u.Threads, u.RSS, u.PeakRSS = status(strconv.Itoa(pid))
	return u, true
}

// ResetPeak makes PeakRSS of this process start anew.
func ResetPeak() {
	// Where it is not allowed the peak is that since the start.
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

// AvailableMemory returns how many bytes new processes can have, or 0 if the
// system does not tell.
func AvailableMemory() int64 {
	data, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			number, _, _ := strings.Cut(strings.TrimSpace(value), " ")
			return kibibytes(number)
		}
	}
	return 0
}

// MemoryOf returns the memory of another process, or of this one if pid is 0. It takes a while.
func MemoryOf(pid int) (m Memory) {
	name := "self"
	if pid != 0 {
		name = strconv.Itoa(pid)
	}
	data, _ := os.ReadFile("/proc/" + name + "/smaps")
	inFile := false // the mapping is that of a memory file
	for line := range strings.Lines(string(data)) {
		field, value, _ := strings.Cut(line, ":")
		number, unit, _ := strings.Cut(strings.TrimSpace(value), " ")
		if strings.TrimSpace(unit) != "kB" {
			if strings.Contains(field, "-") { // addresses
				inFile = strings.Contains(line, "memfd:")
			}
			continue
		}
		bytes := kibibytes(number)
		switch field {
		case "Size":
			if inFile {
				m.Files += bytes
			}
		case "Rss":
			m.RSS += bytes
		case "Pss":
			m.PSS += bytes
		case "Anonymous":
			m.Private += bytes
		}
	}
	return m
}
