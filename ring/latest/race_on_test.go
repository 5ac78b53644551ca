//go:build race

package latest

const raceEnabled = true
