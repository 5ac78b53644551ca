package main

import (
	"bytes"
	"slices"
)

// Totals are what wc prints, under LC_ALL=C.
//
// Lines are the newline bytes. A word is a run of bytes that are no white space
// (space, \t, \n, \v, \f, \r) and of which at least one is visible ('!' to '~').
// All other bytes, which are NUL, control bytes, DEL and 0x80 to 0xff, belong to
// the word they stand in, and are no word by themselves: "a\x00b" is one word
// and "\x00" is none. That is what GNU wc 9.1 does. Later versions may count
// runs without a visible byte as well, which makes a difference in binary files
// only.
type Totals struct {
	Lines int64 `cbor:"1,keyasint"`
	Words int64 `cbor:"2,keyasint"`
	Bytes int64 `cbor:"3,keyasint"`
}

func (t *Totals) add(u Totals) {
	t.Lines += u.Lines
	t.Words += u.Words
	t.Bytes += u.Bytes
}

// Part is the count of one part of a text. Parts can be counted in any order
// and by any worker, for join makes of two neighbours the count of both: what
// touches a cut is kept open. The white space in a part, if it has any, splits
// it into a head, whole words that are in Totals already, and a tail.
type Part struct {
	Totals
	// Split: the part has white space. If not, all of it is in Head.
	Split bool `cbor:"4,keyasint"`
	// Head and Tail are what precedes the first white space and follows the last.
	Head Run `cbor:"5,keyasint"`
	Tail Run `cbor:"6,keyasint"`
}

// edge is what precedes and follows a text: it splits and counts nothing.
var edge = Part{Split: true}

// join counts a text of which a and b are neighbouring parts. It calls word with
// the word that it completes, if there is one.
func join(a, b Part, word func([]byte)) Part {
	p := Part{Totals: a.Totals, Split: a.Split || b.Split, Head: a.Head, Tail: b.Tail}
	p.add(b.Totals)
	switch {
	case a.Split && b.Split:
		if between := a.Tail.join(b.Head); between.Visible {
			p.Words++
			if !between.Long {
				word(between.Text)
			}
		}
	case a.Split:
		p.Tail = a.Tail.join(b.Head)
	default:
		p.Head = a.Head.join(b.Head)
	}
	return p
}

// maxWord is the length in bytes up to which words are ranked; longer ones count
// in the totals alone. It bounds what a Run holds, for a file may be one word.
const maxWord = 256

// Run is a run of bytes without white space, or a piece of one.
type Run struct {
	// Text is the run, or nil if it is longer than maxWord.
	Text []byte `cbor:"1,keyasint,omitempty"`
	Long bool   `cbor:"2,keyasint,omitempty"`
	// Visible: it has a visible byte, and so is a word or a piece of one.
	Visible bool `cbor:"3,keyasint,omitempty"`
}

func newRun(text []byte) Run {
	r := Run{Text: text, Visible: slices.ContainsFunc(text, isVisible)}
	if len(text) > maxWord {
		r.Text, r.Long = nil, true
	}
	return r
}

func (r Run) join(next Run) Run {
	joined := Run{
		Long:    r.Long || next.Long || len(r.Text)+len(next.Text) > maxWord,
		Visible: r.Visible || next.Visible,
	}
	if !joined.Long {
		joined.Text = slices.Concat(r.Text, next.Text)
	}
	return joined
}

type class uint8

const (
	other class = iota
	space
	visible
)

var classes = func() (c [256]class) {
	for _, b := range []byte(" \t\n\v\f\r") {
		c[b] = space
	}
	for b := '!'; b <= '~'; b++ {
		c[b] = visible
	}
	return c
}()

func isSpace(b byte) bool   { return classes[b] == space }
func isVisible(b byte) bool { return classes[b] == visible }

// countPart counts a part of a text and calls word with each whole word in it
// of up to maxWord bytes.
func countPart(text []byte, word func([]byte)) Part {
	p := Part{Totals: Totals{Lines: int64(bytes.Count(text, []byte{'\n'})), Bytes: int64(len(text))}}
	first := slices.IndexFunc(text, isSpace)
	if first < 0 {
		p.Head = newRun(text)
		return p
	}
	p.Split, p.Head = true, newRun(text[:first])
	start, isWord := first+1, false
	for i := start; i < len(text); i++ {
		switch classes[text[i]] {
		case visible:
			isWord = true
		case space:
			if isWord {
				p.Words++
				if i-start <= maxWord {
					word(text[start:i])
				}
			}
			start, isWord = i+1, false
		}
	}
	p.Tail = newRun(text[start:])
	return p
}
