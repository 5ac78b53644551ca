//go:build amd64 && !race

package shared

import "github.com/tandemipc/tandem/ring/bulk"

// InPlace says that memory which others read may be written by plain stores: by whoever
// builds a payload in it, for instance.
const InPlace = true

// CopyIn copies p to memory that others read. On amd64 no store passes an earlier one and no load an
// earlier one, so bytes may be copied in whatever way is fastest: they stay behind the
// atomic access before and ahead of the one after. The compiler moves nothing across a call
// or an atomic access.
func CopyIn(to, p []byte) { bulk.Copy(to, p) }

// CopyOut copies memory that somebody else writes. What it finds there may be changing.
func CopyOut(dst, from []byte) { bulk.Copy(dst, from) }

// Store stores a word among what CopyIn copies.
func Store(p *uint64, v uint64) { *p = v }
