package main

import (
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/drivers/shm"
)

// questions are what a user wants to know first: which driver, and which way to call.
func questions() []report.Question {
	const plain, placed = "Call and Handle", "CallInto and HandleInPlace"
	raw := func(scenario string, id report.Result) (ways []report.Way) {
		for _, driver := range []string{shm.Name, "socket"} {
			for _, mode := range []string{"", inPlace} {
				how := plain
				if mode == inPlace {
					how = placed
				}
				ways = append(ways, report.Way{Take: driver + ", " + how, ID: result(scenario, driver, mode, "raw", id)})
			}
		}
		return ways
	}
	sized := func(size int) []report.Way { return raw("call", report.Result{Bytes: new(size), Callers: 1}) }
	drivers := func(how string, id func(driver string) report.Result) (ways []report.Way) {
		for _, driver := range []string{shm.Name, "socket"} {
			ways = append(ways, report.Way{Take: driver + ", " + how, ID: id(driver)})
		}
		return ways
	}
	structs := drivers("Fixed, CallInto and Handle", func(driver string) report.Result {
		return result("call", driver, "", "fixed", report.Result{Bytes: new(tickSize), Callers: 1})
	})
	orders := drivers("CBOR, Call and Handle", func(driver string) report.Result {
		return result("call", driver, "", "cbor", report.Result{Bytes: new(len(encodedOrder())), Callers: 1})
	})
	fromIdle := drivers(plain, func(driver string) report.Result {
		return result("rate", driver, "", "raw", report.Result{Bytes: new(64), Rate: 1000, Callers: 1})
	})
	fromIdle = append(fromIdle, report.Way{Take: "shm.Driver{Wait: shm.Park}, " + plain, ID: report.Result{
		Scenario: "rate", Subject: shm.Name, Wait: "park", Codec: "raw", Bytes: new(64), Rate: 1000, Callers: 1,
	}})
	oneWay := append(drivers("Batch of Notify, HandleInPlace", func(driver string) report.Result {
		return result("stream", driver, inPlace, "raw", report.Result{Bytes: new(64), Callers: 1, Batch: notifyBatch})
	}), drivers("Notify, Handle", func(driver string) report.Result {
		return result("stream", driver, "", "raw", report.Result{Bytes: new(64), Callers: 1})
	})...)
	items := drivers("ServerStream of Fixed", func(driver string) report.Result {
		return result(streamsName, driver, serverStream, "fixed", report.Result{Bytes: new(tickSize), Callers: 1})
	})
	return []report.Question{
		{Load: "one small call after the other, 64 B", By: "p50", Ways: sized(64)},
		{Load: "structs without pointers, 64 B", By: "p50", Ways: structs},
		{Load: "structs of any kind, 389 B", By: "p50", Ways: orders},
		{Load: "payloads of 64 KiB", By: "p50", Ways: sized(64 << 10)},
		{Load: "payloads of 1 MiB", By: "p50", Ways: sized(1 << 20)},
		{Load: "64 callers at the same time, 64 B", By: "calls/s", Ways: raw("concurrent", report.Result{Bytes: new(64), Callers: 64})},
		{Load: "messages one way, 64 B", By: "calls/s", Ways: oneWay},
		{Load: "many items for one request, 64 B", By: "calls/s", Ways: items},
		{Load: "a call now and then, one per millisecond", By: "p50", Ways: fromIdle},
		{Load: "the same, for the least processor time", By: "CPU", Ways: fromIdle},
	}
}
