package nstest_test

import (
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
)

func TestBusCarriesCalls(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.StartBus(t)
		if names := nstest.Exec(t, "busctl", "--system", "list", "--acquired", "--no-legend"); !strings.Contains(names, "org.freedesktop.DBus") {
			t.Errorf("the bus has the names %q", names)
		}
	})
}
