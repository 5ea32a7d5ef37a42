package main

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"
)

// exposition answers scrapes in Prometheus's text format, version 0.0.4. The
// families of vnetd, tens of thousands of lines on a large host, are written
// straight away, at a tenth of what a registry takes; those of the process come
// from the library.
type exposition struct {
	measure func() (*measurement, error)
	process *prometheus.Registry
	log     *slog.Logger
}

func newExposition(measure func() (*measurement, error), log *slog.Logger) *exposition {
	x := &exposition{measure: measure, process: prometheus.NewRegistry(), log: log}
	x.process.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return x
}

// ServeHTTP implements http.Handler.
func (x *exposition) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	m, err := x.measure()
	process, gatherErr := x.gather()
	if err := errors.Join(err, gatherErr); err != nil {
		x.log.Warn("a scrape of the metrics failed", "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
	if err := expose(w, m, process); err != nil {
		x.log.Debug("a scraper hung up", "error", err)
	}
}

// gather is the text about the process.
func (x *exposition) gather() ([]byte, error) {
	process, err := x.process.Gather()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, f := range process {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// expose writes all families of vnetd, and what follows them, to w.
func expose(w io.Writer, m *measurement, rest []byte) error {
	t := &text{w: w, b: make([]byte, 0, 2*textChunk)}
	for i := range families {
		families[i].write(t, m)
	}
	t.b = append(t.b, rest...)
	t.flush()
	return t.err
}

// textChunk is how many bytes are written at once. Text that is not kept whole
// costs a scrape no memory that the process does not have yet.
const textChunk = 32 << 10

// text is lines on their way to w.
type text struct {
	w   io.Writer
	b   []byte // not yet written; lines are appended to it
	err error  // of the first write that failed, after which nothing is written
}

// flush writes what is there.
func (t *text) flush() {
	if t.err == nil {
		_, t.err = t.w.Write(t.b)
	}
	t.b = t.b[:0]
}

// write writes the family; one without samples is left out.
func (f *family) write(t *text, m *measurement) {
	name := "vnetd_" + f.name
	before, none := len(t.b), true
	t.b = append(t.b, "# HELP "+name+" "+f.help+"\n# TYPE "+name+" "+f.kind+"\n"...)
	keys := strings.Fields(f.labels)
	if f.histograms != nil {
		for _, h := range f.histograms(m) {
			t.b = h.append(t.b, name, keys)
		}
		return
	}
	f.samples(m, func(value float64, labels ...string) {
		none = false
		if t.b = appendSample(t.b, name, keys, labels, value); len(t.b) >= textChunk {
			t.flush()
		}
	})
	if none {
		t.b = t.b[:before]
	}
}

// appendSample writes one line.
func appendSample(b []byte, name string, keys, labels []string, value float64) []byte {
	b = append(b, name...)
	separator := byte('{')
	for i, key := range keys {
		b = append(b, separator)
		b = append(b, key...)
		b = append(b, '=', '"')
		b = appendLabel(b, labels[i])
		b = append(b, '"')
		separator = ','
	}
	if len(keys) > 0 {
		b = append(b, '}')
	}
	b = append(b, ' ')
	b = strconv.AppendFloat(b, value, 'g', -1, 64)
	return append(b, '\n')
}

// appendLabel escapes what the format has escaped: backslash, quote, line feed.
func appendLabel(b []byte, value string) []byte {
	for i := range len(value) {
		switch c := value[i]; c {
		case '\\', '"':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		default:
			b = append(b, c)
		}
	}
	return b
}

// append writes the histogram's lines: cumulative classes, sum and count. It has a
// value for one key at most.
func (h histogramSample) append(b []byte, name string, keys []string) []byte {
	var total uint64
	for i, n := range h.Counts.Counts {
		total += n
		bound := "+Inf"
		if i < len(h.Bounds) {
			bound = strconv.FormatFloat(h.Bounds[i].Seconds(), 'g', -1, 64)
		}
		b = h.appendClass(b, name, keys, bound, total)
	}
	if len(h.Counts.Counts) == 0 {
		b = h.appendClass(b, name, keys, "+Inf", 0)
	}
	b = appendSample(b, name+"_sum", keys, []string{h.label}, h.Sum.Seconds())
	return appendSample(b, name+"_count", keys, []string{h.label}, float64(total))
}

// appendClass writes the line of one class.
func (h histogramSample) appendClass(b []byte, name string, keys []string, bound string, total uint64) []byte {
	labels := []string{h.label, bound}
	return appendSample(b, name+"_bucket", append(keys, "le"), labels[1-len(keys):], float64(total))
}
