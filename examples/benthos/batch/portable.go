package batch

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// Portable returns a value of metadata as it crosses: nil, bool, int64, float64, string, []byte,
// time.Time, and []any and map[string]any of these. Other integers become one of the numbers, keys
// and anything else a string, as fmt prints it. A uint64 that is too large for an int64 stays one. Slices
// and maps are copied.
func Portable(v any) any {
	switch v := v.(type) {
	case nil, bool, int64, float64, string, []byte, time.Time:
		return v
	case int:
		return int64(v)
	case int32:
		return int64(v)
	case int16:
		return int64(v)
	case int8:
		return int64(v)
	case uint64:
		if v <= math.MaxInt64 {
			return int64(v)
		}
		return v
	case uint:
		return Portable(uint64(v))
	case uint32:
		return int64(v)
	case uint16:
		return int64(v)
	case uint8:
		return int64(v)
	case float32:
		return float64(v)
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = Portable(e)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, e := range v {
			out[key] = Portable(e)
		}
		return out
	case map[any]any: // what CBOR makes of a map
		out := make(map[string]any, len(v))
		for key, e := range v {
			out[fmt.Sprint(key)] = Portable(e)
		}
		return out
	default:
		return fmt.Sprint(v)
	}
}
