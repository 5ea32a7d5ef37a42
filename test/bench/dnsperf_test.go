package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// dnsperfReport is what dnsperf 2.10 prints with -v.
const dnsperfReport = `DNS Performance Testing Tool
Version 2.10.0

[Status] Sending queries (to 10.20.0.1:53)
> NOERROR host0.vm.example A 0.000085
> REFUSED f1.slow.example A 0.000010
> NXDOMAIN nobody0.vm.example A 0.001250
> T 17
Statistics:

  Queries sent:         4
  Queries completed:    3 (75.00%)
  Queries lost:         1 (25.00%)

  Response codes:       NOERROR 1 (33.33%), NXDOMAIN 1 (33.33%), REFUSED 1 (33.33%)
  Average packet size:  request 34, response 50
  Run time (s):         3.000174
  Queries per second:   5000.123456

  Average Latency (s):  0.000120 (min 0.000010, max 0.001250)
`

func TestParseDnsperf(t *testing.T) {
	got, err := parseDnsperf(dnsperfReport)
	want := dnsperfResult{completed: 3, lost: 1, rate: 5000, refused: 1, times: []time.Duration{85 * time.Microsecond, 1250 * time.Microsecond}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(dnsperfResult{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err := parseDnsperf("[Status] Testing complete\n"); err == nil {
		t.Errorf("nothing was asked: %+v", got)
	}
}
