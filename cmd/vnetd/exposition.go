package main

import (
	"bytes"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"

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

	mu  sync.Mutex // one scrape at a time
	buf []byte     // guarded by mu
}

func newExposition(measure func() (*measurement, error), log *slog.Logger) *exposition {
	x := &exposition{measure: measure, process: prometheus.NewRegistry(), log: log}
	x.process.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return x
}

// ServeHTTP implements http.Handler.
func (x *exposition) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.fill(); err != nil {
		x.log.Warn("a scrape of the metrics failed", "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
	_, _ = w.Write(x.buf) // a scraper that hung up
}

// fill writes all metrics into x.buf. x.mu must be locked.
func (x *exposition) fill() error {
	m, err := x.measure()
	if err != nil {
		return err
	}
	x.buf = x.buf[:0]
	for i := range families {
		x.buf = families[i].append(x.buf, m)
	}
	process, err := x.process.Gather()
	if err != nil {
		return err
	}
	rest := bytes.NewBuffer(x.buf)
	for _, f := range process {
		if _, err := expfmt.MetricFamilyToText(rest, f); err != nil {
			return err
		}
	}
	x.buf = rest.Bytes()
	return nil
}

// append writes the family; one without samples is left out.
func (f *family) append(b []byte, m *measurement) []byte {
	name := "vnetd_" + f.name
	head := append(b, "# HELP "+name+" "+f.help+"\n# TYPE "+name+" "+f.kind+"\n"...)
	keys := strings.Fields(f.labels)
	if f.histograms != nil {
		for _, h := range f.histograms(m) {
			head = h.append(head, name, keys)
		}
		return head
	}
	all := head
	f.samples(m, func(value float64, labels ...string) {
		all = appendSample(all, name, keys, labels, value)
	})
	if len(all) == len(head) {
		return b
	}
	return all
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
func (h histogram) append(b []byte, name string, keys []string) []byte {
	var total uint64
	for i, n := range h.counts {
		total += n
		bound := "+Inf"
		if i < len(h.bounds) {
			bound = strconv.FormatFloat(h.bounds[i].Seconds(), 'g', -1, 64)
		}
		b = h.appendClass(b, name, keys, bound, total)
	}
	if len(h.counts) == 0 {
		b = h.appendClass(b, name, keys, "+Inf", 0)
	}
	b = appendSample(b, name+"_sum", keys, []string{h.label}, h.sum.Seconds())
	return appendSample(b, name+"_count", keys, []string{h.label}, float64(total))
}

// appendClass writes the line of one class.
func (h histogram) appendClass(b []byte, name string, keys []string, bound string, total uint64) []byte {
	labels := []string{h.label, bound}
	return appendSample(b, name+"_bucket", append(keys, "le"), labels[1-len(keys):], float64(total))
}
