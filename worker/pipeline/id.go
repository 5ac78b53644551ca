package pipeline

import (
	"strconv"
)

// ID names a record in a pipeline. It says where the record has come from: the position of its
// record in the source, and for each stage that made several records of one ([Flatten],
// [ThroughStream]) which of them it is. So a record has the same ID when it is sent again, to
// another worker or by another run of the same pipeline over the same source, provided that
// these stages make the same records in the same order each time. IDs can be compared.
type ID struct {
	// Pos is the position in the source, from 0.
	Pos uint64
	// Part is which record of the last such stage this is, from 1; 0 means that there was none.
	Part uint64
	// Path has the parts of the stages before that one, such as "3/1"; it is empty if there are none.
	Path string
}

// String returns the position and the parts, such as "17", "17/3" or "17/3/1".
func (id ID) String() string {
	s := strconv.FormatUint(id.Pos, 10)
	if p := id.below(); p != "" {
		s += "/" + p
	}
	return s
}

// below is the Path of the parts of id.
func (id ID) below() string {
	switch {
	case id.Part == 0:
		return ""
	case id.Path == "":
		return strconv.FormatUint(id.Part, 10)
	}
	return id.Path + "/" + strconv.FormatUint(id.Part, 10)
}
