package leasedb

import (
	"errors"
	"fmt"
	"os"
)

// leastJournal is how large a journal is at least, in bytes: some 14,000 leases fill it. A smaller
// one would be full a few times a second where many ask, and as often would what takes its place
// be beside them on the disk.
const leastJournal = 1 << 20

// journal is the log that is written to. Its file has zeros where groups will stand, so
// that an append changes nothing but data.
type journal struct {
	name     string
	file     File
	sequence uint64
	end      int64  // where the next group goes
	number   uint64 // of the last group
	size     int64  // of the file, as it was made
	unknown  bool   // behind end there may be something
	dirty    int64  // as far as that
}

// makeJournal makes a journal's file, under the name of one that is not yet whole.
func makeJournal(files Files, sequence uint64, size int) (j journal, err error) {
	j = journal{name: freshJournal, sequence: sequence, end: headerLen, size: int64(size)}
	if err := removeIfThere(files, freshJournal); err != nil {
		return j, err
	}
	if j.file, err = files.OpenFile(freshJournal, os.O_RDWR|os.O_CREATE); err != nil {
		return j, err
	}
	if err = clearSynced(j.file, headerLen, j.size); err == nil {
		err = writeSynced(j.file, appendHeader(nil, journalKind, sequence), 0)
	}
	if err != nil {
		return j, errors.Join(err, j.close())
	}
	return j, nil
}

// rename gives the file another name, for good.
func (j *journal) rename(files Files, name string) error {
	if err := files.Rename(j.name, name); err != nil {
		return err
	}
	j.name = name
	return files.Sync()
}

// removeIfThere removes a file that may not be there.
func removeIfThere(files Files, name string) error {
	if err := files.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// open opens the file of a journal that was read.
func (j *journal) open(files Files) (err error) {
	if j.file, err = files.OpenFile(j.name, os.O_RDWR); err != nil {
		return fmt.Errorf("opening %s: %w", j.name, err)
	}
	if j.size, err = j.file.Size(); err != nil {
		return fmt.Errorf("opening %s: %w", j.name, err)
	}
	j.dirty = j.size
	return nil
}

// full reports whether it is time for the next one.
func (j *journal) full() bool { return j.file != nil && j.end > j.size-j.size/4 }

// ready reports whether a group can be appended.
func (j *journal) ready() bool { return j.file != nil && !j.unknown }

// append writes a group and returns when it is on disk. After an error none of it counts,
// and the journal is not ready.
func (j *journal) append(group []byte) error {
	group = endGroup(group, 0, j.number+1)
	if err := writeSynced(j.file, group, j.end); err != nil {
		j.unknown, j.dirty = true, j.end+int64(len(group))
		return err
	}
	j.end += int64(len(group))
	j.number++
	return nil
}

// mend puts zeros where something may be that nobody was told of.
func (j *journal) mend() error {
	if !j.unknown {
		return nil
	}
	if err := clearSynced(j.file, j.end, j.dirty); err != nil {
		return err
	}
	j.unknown = false
	return nil
}

// writeSynced returns when b is on disk.
func writeSynced(f File, b []byte, at int64) error {
	if _, err := f.WriteAt(b, at); err != nil {
		return err
	}
	return f.Datasync()
}

// clearSynced returns when there are zeros on disk from begin to end.
func clearSynced(f File, begin, end int64) error {
	w := gently{file: f}
	zeros := make([]byte, chunk)
	for at := begin; at < end; at += chunk {
		if err := w.write(zeros[:min(chunk, end-at)], at); err != nil {
			return err
		}
	}
	return f.Datasync()
}

// gently writes a large file beside commits. A disk that is asked to write what it has writes all,
// so that a commit waits for at most syncEvery bytes of the file.
type gently struct {
	file   File
	behind int // bytes since it was synced
}

// syncEvery is how many bytes are written before the disk is waited for.
const syncEvery = 4 * chunk

// write writes b, and waits for the disk now and then.
func (g *gently) write(b []byte, at int64) error {
	if _, err := g.file.WriteAt(b, at); err != nil {
		return err
	}
	if g.behind += len(b); g.behind < syncEvery {
		return nil
	}
	g.behind = 0
	return g.file.Datasync()
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	return j.file.Close()
}
