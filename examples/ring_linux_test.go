package examples

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestRing(t *testing.T) {
	out, status := run(t, build(t, t.TempDir(), "ring", "./ring"))
	assert.Equal(t, "the child has added 1000000 numbers: 499999500000\nthe child was killed, and the parent has noticed\n", out)
	assert.Equal(t, 0, status)
}
