package live

import (
	"log/slog"
	"path/filepath"
	"runtime"
	"testing"
	"weak"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/store"
)

// TestEndedServicesAreNotKept has somebody ask for leases, and the network's services end.
func TestEndedServicesAreNotKept(t *testing.T) {
	dir := t.TempDir()
	st, err := store.Open(store.Dirs{State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"), Networks: filepath.Join(dir, "networks")}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	var u unserved
	services := &service.Set{}
	ended := weak.Make(services)
	if _, err := u.list(st, &netdef.Network{UUID: "00000000-0000-4000-8000-000000000001"}, services); err != nil {
		t.Fatal(err)
	}
	services = nil
	runtime.GC()
	if ended.Value() != nil {
		t.Error("services that have ended are kept")
	}
	runtime.KeepAlive(&u)
}
