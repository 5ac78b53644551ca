package pipeline

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
)

// FileSink writes records to a file, each exactly once, whatever ends: workers, the run, this
// process at any instant, and with [Synced] the system.
//
// Beside the file PATH there is PATH.ids, a journal: an entry for each Write has the length of the
// file after it, and the ids that were written, with a checksum. Open cuts the file to the length of the last
// entry that is whole. What was cut was not acknowledged, so it comes again; what comes again though it is in the
// file is known by its id.
type FileSink[T any] struct {
	append  func(dst []byte, record T) ([]byte, error)
	synced  bool
	mu      sync.Mutex
	file    *os.File
	journal *os.File
	path    string
	size    int64
	entries int64 // bytes of the journal
	compact int64 // at which size it is written anew
	ids     IDs
	fresh   []ID
	buf     []byte
	entry   []byte
	doubled uint64
	broken  error
}

// FileOption is an option of [OpenFile].
type FileOption func(*fileOptions)

type fileOptions struct{ synced bool }

// Synced makes each Write of a FileSink wait until the records are on the disk. Without it they are with
// the system, which suffices whatever ends but the system itself.
func Synced() FileOption { return func(o *fileOptions) { o.synced = true } }

// journalMagic begins a journal.
var journalMagic = []byte("tandem ids 1\n")

// OpenFile opens a file for records, or makes it, and its journal. appendRecord appends a record as
// it is to be in the file, such as a line. One FileSink at a time may have the file open.
//
// It fails if there is a file without a journal that is not empty, since nobody knows what is in that.
func OpenFile[T any](path string, appendRecord func(dst []byte, record T) ([]byte, error), opts ...FileOption) (*FileSink[T], error) {
	var o fileOptions
	for _, opt := range opts {
		opt(&o)
	}
	s := &FileSink[T]{append: appendRecord, synced: o.synced, path: path}
	var err error
	if s.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666); err != nil {
		return nil, fmt.Errorf("tandem: pipeline: %w", err)
	}
	if s.journal, err = os.OpenFile(path+".ids", os.O_RDWR|os.O_CREATE, 0o666); err == nil {
		err = s.recover()
	}
	if err != nil {
		_ = s.file.Close()
		if s.journal != nil {
			_ = s.journal.Close()
		}
		return nil, fmt.Errorf("tandem: pipeline: open %s: %w", path, err)
	}
	return s, nil
}

// recover reads the journal, and cuts it and the file to what is whole.
func (s *FileSink[T]) recover() error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	ji, err := s.journal.Stat()
	if err != nil {
		return err
	}
	if ji.Size() < int64(len(journalMagic)) { // it is being made
		if info.Size() > 0 {
			return errors.New("it has no journal, so what is in it is not known")
		}
		return s.rewrite()
	}
	r := bufio.NewReader(s.journal)
	magic := make([]byte, len(journalMagic))
	if _, err := io.ReadFull(r, magic); err != nil {
		return err
	}
	if !bytes.Equal(magic, journalMagic) {
		return fmt.Errorf("%s.ids is no journal", s.path)
	}
	s.entries = int64(len(journalMagic))
	for {
		n, err := s.readEntry(r)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		s.entries += n
	}
	if s.size > info.Size() {
		return fmt.Errorf("it has %d bytes, and its journal knows of %d", info.Size(), s.size)
	}
	if err := cmp.Or(s.file.Truncate(s.size), s.journal.Truncate(s.entries)); err != nil {
		return err
	}
	s.compact = 2*s.entries + 1<<20
	_, err = s.file.Seek(s.size, io.SeekStart)
	_, err2 := s.journal.Seek(s.entries, io.SeekStart)
	return cmp.Or(err, err2)
}

// readEntry reads an entry, and returns how many bytes it has: 0 if it is not whole, or there is none.
func (s *FileSink[T]) readEntry(r *bufio.Reader) (int64, error) {
	var header [8]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, notWhole(err)
	}
	n := binary.LittleEndian.Uint32(header[:])
	var body bytes.Buffer // grows as the file has bytes, whatever n says
	if _, err := io.CopyN(&body, r, int64(n)); err != nil {
		return 0, notWhole(err)
	}
	b := body.Bytes()
	if crc32.ChecksumIEEE(b) != binary.LittleEndian.Uint32(header[4:]) {
		return 0, nil
	}
	size, b, ok := uvarint(b)
	low, b, ok2 := uvarint(b)
	if !ok || !ok2 {
		return 0, errJournal
	}
	var ids []ID
	for len(b) > 0 {
		var id ID
		if id, b, ok = readID(b); !ok {
			return 0, errJournal
		}
		ids = append(ids, id)
	}
	s.size = int64(size)
	s.ids.Forget(low)
	for _, id := range ids {
		s.ids.Add(id)
	}
	return int64(len(header)) + int64(n), nil
}

var errJournal = errors.New("its journal is damaged")

// notWhole turns the end of a file into no error.
func notWhole(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

func uvarint(b []byte) (v uint64, rest []byte, ok bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

func appendID(b []byte, id ID) []byte {
	b = binary.AppendUvarint(b, id.Pos)
	b = binary.AppendUvarint(b, id.Part)
	b = binary.AppendUvarint(b, uint64(len(id.Path)))
	return append(b, id.Path...)
}

func readID(b []byte) (id ID, rest []byte, ok bool) {
	if id.Pos, b, ok = uvarint(b); !ok {
		return id, nil, false
	}
	if id.Part, b, ok = uvarint(b); !ok {
		return id, nil, false
	}
	n, b, ok := uvarint(b)
	if !ok || n > uint64(len(b)) {
		return id, nil, false
	}
	id.Path = string(b[:n])
	return id, b[n:], true
}

// appendEntry appends an entry of the journal.
func appendEntry(dst []byte, size int64, low uint64, ids []ID) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, 8)...)
	dst = binary.AppendUvarint(dst, uint64(size))
	dst = binary.AppendUvarint(dst, low)
	for _, id := range ids {
		dst = appendID(dst, id)
	}
	body := dst[start+8:]
	binary.LittleEndian.PutUint32(dst[start:], uint32(len(body)))
	binary.LittleEndian.PutUint32(dst[start+4:], crc32.ChecksumIEEE(body))
	return dst
}

// rewrite makes the journal one entry with all that is known.
func (s *FileSink[T]) rewrite() error {
	low, rest := s.ids.snapshot()
	contents := appendEntry(bytes.Clone(journalMagic), s.size, low, rest)
	if err := replaceFile(s.path+".ids", contents); err != nil {
		return err
	}
	j, err := os.OpenFile(s.path+".ids", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_ = s.journal.Close()
	s.journal, s.entries = j, int64(len(contents))
	s.compact = 2*s.entries + 1<<20
	_, err = j.Seek(s.entries, io.SeekStart)
	return err
}

// Write implements [Sink]: it appends the records that are not in the file.
func (s *FileSink[T]) Write(_ context.Context, records []Item[T]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	s.buf, s.fresh = s.buf[:0], s.fresh[:0]
	for i := range records {
		if s.ids.Has(records[i].ID) {
			s.doubled++
			continue
		}
		var err error
		if s.buf, err = s.append(s.buf, records[i].Record); err != nil {
			return &StageError{"file", records[i].ID, err}
		}
		s.fresh = append(s.fresh, records[i].ID)
	}
	if len(s.fresh) == 0 {
		return nil
	}
	s.entry = appendEntry(s.entry[:0], s.size+int64(len(s.buf)), 0, s.fresh)
	err := s.write(s.file, s.buf)
	if err == nil {
		err = s.write(s.journal, s.entry)
	}
	if err != nil {
		// What was written is cut when the file is opened again.
		s.broken = fmt.Errorf("tandem: pipeline: the file is to be opened again after: %w", err)
		return err
	}
	s.size += int64(len(s.buf))
	s.entries += int64(len(s.entry))
	for _, id := range s.fresh {
		s.ids.Add(id)
	}
	return nil
}

func (s *FileSink[T]) write(f *os.File, b []byte) error {
	_, err := f.Write(b)
	if err == nil && s.synced {
		err = f.Sync()
	}
	return err
}

// Forget makes the sink forget ids of positions before this one. A run calls it when it has saved a
// checkpoint after which none of them comes again; then the journal stays small. So a file with such a
// journal belongs to that checkpoint: without it records would be missing in the next run, not
// doubled, since the sink takes them for known.
func (s *FileSink[T]) Forget(before uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids.Forget(before)
	if s.broken != nil || s.entries < s.compact {
		return s.broken
	}
	return s.rewrite()
}

// Doubled returns how many records have come that were in the file.
func (s *FileSink[T]) Doubled() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doubled
}

// Close closes the files. They have been written.
func (s *FileSink[T]) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = os.ErrClosed
	return cmp.Or(s.file.Close(), s.journal.Close())
}
