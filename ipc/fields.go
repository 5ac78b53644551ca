package ipc

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
)

// field is a field of a struct, or of one that it embeds, as the codecs CBOR and JSON have it.
type field struct {
	reflect.StructField
	name   string // in the encoding
	index  []int  // from the struct
	tagged bool
	asInt  bool // the name is an integer
}

// structFields are the fields of a struct that are encoded.
type structFields struct {
	list     []field        // in their order
	pointers []reflect.Type // embedded structs that are behind pointers
	array    bool           // encoded as an array, without their names
	clash    string         // a name that two fields have, of which at least one is not encoded
}

// fieldsOf finds the fields of t and of the structs that it embeds, as the codecs do: of several of a
// name the least deep one hides the others.
func fieldsOf(t reflect.Type, json bool) structFields {
	type level struct {
		t     reflect.Type
		index []int
	}
	var s structFields
	visited := map[reflect.Type]int{t: 0}
	for depth, next := 0, []level{{t, nil}}; len(next) > 0; depth++ {
		var deeper []level
		for _, l := range next {
			for i := range l.t.NumField() {
				f := l.t.Field(i)
				name, options, tagged := tagOf(f, json)
				if f.Name == "_" && depth == 0 {
					s.array = s.array || !json && slices.Contains(options, "toarray")
				}
				inner := f.Type
				if inner.Kind() == reflect.Pointer {
					inner = inner.Elem()
				}
				embeds := f.Anonymous && inner.Kind() == reflect.Struct
				if ignored(f, json) || !f.IsExported() && !embeds {
					continue
				}
				index := append(slices.Clone(l.index), i)
				if !embeds || name != "" {
					s.add(field{StructField: f, name: cmp.Or(name, f.Name), index: index, tagged: tagged, asInt: !json && slices.Contains(options, "keyasint")})
					continue
				}
				if f.Type.Kind() == reflect.Pointer {
					s.pointers = append(s.pointers, inner)
				}
				if at, seen := visited[inner]; !seen {
					visited[inner] = depth + 1
					deeper = append(deeper, level{inner, index})
				} else if at == depth+1 && inner.NumField() > 0 {
					s.clash = cmp.Or(s.clash, inner.Name())
				}
			}
		}
		next = deeper
	}
	slices.SortFunc(s.list, func(a, b field) int { return slices.Compare(a.index, b.index) })
	return s
}

func (s *structFields) add(f field) {
	i := slices.IndexFunc(s.list, func(other field) bool { return other.name == f.name && other.asInt == f.asInt })
	if i < 0 {
		s.list = append(s.list, f)
		return
	}
	if len(s.list[i].index) == len(f.index) {
		s.clash = cmp.Or(s.clash, f.name)
		if f.tagged && !s.list[i].tagged {
			s.list[i] = f
		}
	}
}

// tagOf returns the name and the options that the tag of a field gives it.
func tagOf(f reflect.StructField, json bool) (name string, options []string, tagged bool) {
	tag := f.Tag.Get("cbor")
	if tag == "" || json {
		tag = f.Tag.Get("json")
	}
	parts := strings.Split(tag, ",")
	return parts[0], parts[1:], tag != ""
}

// ignored reports whether the tag of a field says to leave it out.
func ignored(f reflect.StructField, json bool) bool {
	name, options, _ := tagOf(f, json)
	return name == "-" && len(options) == 0
}
