package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockMost is by how much the clock is set at most: no lease that its guest still renews ends
// by that, since it is renewed in seconds and lasts an hour.
const clockMost = 20 * time.Minute

// clockJumps sets the clock of vnetd, and of nobody else: the wall clock that its runtime reads
// is a function of the kernel's in the memory of each process (vdso(7)), which has another one
// written over it that adds the difference. A vnetd that is started anew has the true time again.
func clockJumps(w *world) error {
	by := time.Duration(w.lots.Int64N(int64(2*clockMost))) - clockMost
	return setClock(w.vnetd.PID(), by)
}

// setClock has the wall clock of a running process differ by so many whole seconds from the
// kernel's. The process stands still meanwhile.
func setClock(pid int, by time.Duration) error {
	for deadline := time.Now().Add(actLimit); ; time.Sleep(time.Millisecond) {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
		err := setClockOf(pid, by)
		if err := unix.Kill(pid, unix.SIGCONT); err != nil {
			return err
		}
		if !errors.Is(err, errWithin) || time.Now().After(deadline) {
			return err
		}
	}
}

// errWithin says that a thread is not stopped, or within the kernel's functions.
var errWithin = errors.New("the clock is being read")

// setClockOf is setClock for a process that is being stopped, errWithin unless it is by now.
func setClockOf(pid int, by time.Duration) error {
	begin, end, err := mapped(pid, "[vdso]")
	if err != nil {
		return err
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = memory.Close() }()
	image := make([]byte, end-begin)
	if _, err := memory.ReadAt(image, int64(begin)); err != nil {
		return err
	}
	at, size, err := symbol(image, "__vdso_clock_gettime")
	if err != nil {
		return err
	}
	code := clockCode(by)
	if uint64(len(code)) > size {
		return fmt.Errorf("the kernel's function for the clock has %d bytes only", size)
	}
	if err := outside(pid, begin, end); err != nil {
		return err
	}
	_, err = memory.WriteAt(code, int64(begin+at))
	return err
}

// clockCode is clock_gettime(2) for amd64, with the wall clock off by so many whole seconds.
func clockCode(by time.Duration) []byte {
	code := []byte{
		0xb8, unix.SYS_CLOCK_GETTIME, 0, 0, 0, // mov eax, SYS_clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi: CLOCK_REALTIME is 0
		0x75, 13, // jne to the ret
		0x48, 0xb9, // mov rcx, …
	}
	code = binary.LittleEndian.AppendUint64(code, uint64(int64(by/time.Second)))
	return append(code,
		0x48, 0x01, 0x0e, // add [rsi], rcx
		0xc3, // ret
	)
}

// symbol is where a function is in the image of a shared object, and how long.
func symbol(image []byte, name string) (at, size uint64, err error) {
	object, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, 0, err
	}
	all, err := object.DynamicSymbols()
	for _, s := range all {
		if s.Name == name {
			return s.Value, s.Size, nil
		}
	}
	return 0, 0, errors.Join(err, fmt.Errorf("there is no %s", name))
}

// mapped is from where to where a process has that in its memory.
func mapped(pid int, what string) (begin, end uint64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(line, what+"\n") {
			_, err := fmt.Sscanf(line, "%x-%x ", &begin, &end)
			return begin, end, err
		}
	}
	return 0, 0, fmt.Errorf("process %d has no %s", pid, what)
}

// outside returns errWithin unless all threads of a process are stopped or in the kernel, and
// go on outside of those addresses (proc_pid_syscall(5)).
func outside(pid int, begin, end uint64) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	if err != nil {
		return err
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			return err
		}
		fields := strings.Fields(string(text))
		counter, err := strconv.ParseUint(fields[len(fields)-1], 0, 64)
		if err != nil || begin <= counter && counter < end { // "running"
			return errWithin
		}
	}
	return nil
}
