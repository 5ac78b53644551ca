package arena_test

import (
	"fmt"
	"log"

	"github.com/tandemipc/tandem/ring/arena"
)

// A block is filled and passed on by region and offset; freed, it is used again.
func Example() {
	a := arena.New(arena.Options{Limit: 64 << 20})
	defer a.Close()

	b, err := a.Alloc(1000)
	if err != nil {
		log.Fatal(err)
	}
	copy(b.Bytes(), "an image, a tensor, a record batch")
	st := a.Stats()
	fmt.Println(len(b.Bytes()), b.Offset()%64, st.Blocks, st.Asked, st.Used)

	b.Free()
	st = a.Stats()
	fmt.Println(st.Blocks, st.Used, st.Free == st.Reserved)

	a.Trim()
	fmt.Println(a.Stats().Reserved)
	// Output:
	// 1000 0 1 1000 1024
	// 0 0 true
	// 0
}
