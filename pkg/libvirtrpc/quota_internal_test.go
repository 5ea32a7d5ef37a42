package libvirtrpc

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRepliesThatOneUserDoesNotRead has one user ask for long documents on a hundred
// connections and read nothing: it finds that what waits for it is bounded over all of
// them, and that others are served.
func TestRepliesThatOneUserDoesNotRead(t *testing.T) {
	path := servePatience(t, defaultPatience())
	other, before := opened(t, path), heap()
	for _, dir := range []string{filepath.Dir(path), filepath.Dir(filepath.Dir(path))} {
		must(t, os.Chmod(dir, 0o755))
	}
	must(t, os.Chmod(path, 0o666))
	const connections, calls = 100, 10
	runtime.LockOSThread() // who connects is a matter of the thread
	defer runtime.UnlockOSThread()
	become := func(uid uintptr) {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, math.MaxUint, uid, math.MaxUint); errno != 0 {
			t.Fatal(errno)
		}
	}
	text := frame(header{program: programRemote, version: protocolVersion, proc: 43}, func(e *encoder) { e.ref(ref{"lab", uuid{1}}); e.uint32(0) })
	for range connections {
		become(4001)
		deaf := opened(t, path)
		become(0)
		for range calls {
			if _, err := deaf.Write(text); err != nil {
				break // it was cut off
			}
		}
	}
	// What is asked is answered in its own time.
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if now := heap(); now > before+48<<20 {
			t.Fatalf("%d MiB wait for who reads nothing", (now-before)>>20)
		}
	}
	must(t, other.SetDeadline(time.Now().Add(soon)))
	other.ok(52, nil)
}
