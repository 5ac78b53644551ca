package latest_test

import (
	"fmt"
	"log"

	"github.com/tandemipc/tandem/ring/latest"
)

func ExampleReader() {
	const size = 5
	slots := latest.Slots(size)
	n, err := latest.MemorySize(size, slots)
	if err != nil {
		log.Fatal(err)
	}
	mem := make([]byte, n) // in life it is shared with other processes
	w, err := latest.NewWriter(mem, size, slots, 0)
	if err != nil {
		log.Fatal(err)
	}
	r, err := latest.NewReader(mem)
	if err != nil {
		log.Fatal(err)
	}
	for _, v := range []string{"first", "later"} {
		if _, err := w.Store([]byte(v)); err != nil {
			log.Fatal(err)
		}
	}
	dst := make([]byte, r.Size())
	version, err := r.Load(dst)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(version, string(dst))
	// Output: 2 later
}
