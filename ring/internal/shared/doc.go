// Package shared reads and writes memory that one side writes while others read it.
//
// A reader that copies such memory may get bytes that are just being changed. It finds that out
// afterwards, by a word that the writer stores before it changes any of them, and throws
// the copy away. For that the accesses here keep their order: what [CopyIn] and [Store] store comes
// after each atomic store before them, and what [CopyOut] loads comes before each atomic load behind it.
package shared
