//go:build amd64 && !race

package latest

import "github.com/tandemipc/tandem/ring/bulk"

// copyIn copies a value into its slot. On amd64 no store passes an earlier one and no load an
// earlier one, so bytes may be copied in whatever way is fastest: they stay behind the
// atomic access before and ahead of the one after. The compiler moves nothing across a call
// or an atomic access.
func copyIn(slot, p []byte) { bulk.Copy(slot, p) }

// copyOut copies a value from its slot. What it finds there may be changing.
func copyOut(dst, slot []byte) { bulk.Copy(dst, slot) }
