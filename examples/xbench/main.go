package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"time"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

type tick [8]int64
type req struct {
	N, Size int
	Prof    string
}

var ticks = ipc.NewServerStream[[1]int64, tick]("ticks", ipc.WithCodec(ipc.Fixed))
var raws = ipc.NewServerStream[[]byte, []byte]("raws", ipc.WithCodec(ipc.Raw))
var echo = ipc.NewMethod[tick, tick]("echo", ipc.WithCodec(ipc.Fixed))

func main() {
	worker.Main("w", func() error {
		s := worker.NewServer()
		worker.Handle(s, echo, func(_ context.Context, t tick) (tick, error) { return t, nil })
		worker.HandleServerStream(s, ticks, func(ctx context.Context, r [1]int64, out *ipc.Sender[tick]) error {
			if p := os.Getenv("WPROF"); p != "" && r[0] > 1000000 {
				f, _ := os.Create(p)
				pprof.StartCPUProfile(f)
				defer f.Close()
				defer pprof.StopCPUProfile()
			}
			var t tick
			for i := range r[0] {
				t[0] = i
				if err := out.Send(ctx, t); err != nil {
					return err
				}
			}
			return nil
		})
		worker.HandleServerStream(s, raws, func(ctx context.Context, r []byte, out *ipc.Sender[[]byte]) error {
			b := make([]byte, 64<<10)
			for range 20000 {
				if err := out.Send(ctx, b); err != nil {
					return err
				}
			}
			return nil
		})
		return s.Serve(context.Background())
	})
	n := flag.Int64("n", 20_000_000, "")
	prof := flag.String("prof", "", "")
	flag.Parse()
	ctx := context.Background()
	open := flag.Arg(0) == "open"
	run := func(name string, c ipc.Caller) {
		if open {
			for range 5 {
				st := time.Now()
				for range 100000 {
					if _, err := echo.Call(ctx, c, tick{}); err != nil {
						panic(err)
					}
				}
				call := time.Since(st) / 100000
				var f *os.File
				if *prof != "" {
					f, _ = os.Create(*prof)
					pprof.StartCPUProfile(f)
				}
				st = time.Now()
				var first time.Duration
				for range 100000 {
					t0 := time.Now()
					s, err := ticks.Open(ctx, c, [1]int64{1})
					if err != nil {
						panic(err)
					}
					if _, err := s.Receive(ctx); err != nil {
						panic(err)
					}
					first += time.Since(t0)
					s.Receive(ctx)
				}
				fmt.Printf("  call %v open+first %v all %v\n", call, first/100000, time.Since(st)/100000)
				if f != nil {
					pprof.StopCPUProfile()
					f.Close()
				}
			}
			return
		}
		for round := range 3 {
			st := time.Now()
			want := int64(0)
			var f *os.File
			if *prof != "" && round == 1 && name == "shm" {
				f, _ = os.Create(*prof)
				pprof.StartCPUProfile(f)
			}
			for t, err := range ticks.Stream(ctx, c, [1]int64{*n}) {
				if err != nil {
					panic(err)
				}
				if t[0] != want {
					panic("order")
				}
				want++
			}
			if f != nil {
				pprof.StopCPUProfile()
				f.Close()
			}
			d := time.Since(st)
			fmt.Printf("%s fixed64 %.1f M/s", name, float64(*n)/d.Seconds()/1e6)
			st = time.Now()
			k := 0
			for b, err := range raws.Stream(ctx, c, []byte{}) {
				if err != nil {
					panic(err)
				}
				k += len(b)
			}
			fmt.Printf("  64K %.2f GB/s", float64(k)/time.Since(st).Seconds()/1e9)
			st = time.Now()
			for range 20000 {
				if _, err := echo.Call(ctx, c, tick{}); err != nil {
					panic(err)
				}
			}
			call := time.Since(st) / 20000
			st = time.Now()
			for range 20000 {
				s, err := ticks.Open(ctx, c, [1]int64{1})
				if err != nil {
					panic(err)
				}
				if _, err := s.Receive(ctx); err != nil {
					panic(err)
				}
				s.Receive(ctx)
			}
			fmt.Printf("  call %v open+first %v\n", call, time.Since(st)/20000)
		}
	}
	w, err := worker.Spawn(ctx, worker.Self("w"), shm.Driver{})
	if err != nil {
		panic(err)
	}
	run("shm", w)
	w.Close()
	w2, err := worker.Spawn(ctx, worker.Self("w"), socket.Driver{})
	if err != nil {
		panic(err)
	}
	run("socket", w2)
	w2.Close()
}
