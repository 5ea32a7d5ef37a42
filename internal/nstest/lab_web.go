package nstest

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	chunk   = 16 << 10 // how much of a download is sent at once
	unpaced = 1 << 40  // a rate that never makes the server wait
)

// Web is a web server on the LAN host, port 80. The page /page tells the client
// its address; /download?bytes=N&rate=R streams N bytes at R bytes a second, as
// fast as it goes without a rate.
type Web struct {
	mu      sync.Mutex
	clients []string
}

// Clients are the addresses from which pages were fetched, oldest first.
func (w *Web) Clients() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.clients...)
}

// NewWeb starts the web server in lan, ended with the test.
func NewWeb(t TB, lan *NS) *Web {
	t.Helper()
	var listener net.Listener
	err := lan.Do(func() (err error) {
		listener, err = net.Listen("tcp4", LANHost+":80")
		return err
	})
	if err != nil {
		t.Fatalf("starting the web server on the LAN: %v", err)
	}
	w := new(Web)
	mux := http.NewServeMux()
	mux.HandleFunc("/page", w.page)
	mux.HandleFunc("/download", download)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return w
}

func (w *Web) page(rw http.ResponseWriter, r *http.Request) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	w.mu.Lock()
	w.clients = append(w.clients, host)
	w.mu.Unlock()
	_, _ = fmt.Fprintf(rw, "hello %s, this is the LAN host\n", host)
}

func download(rw http.ResponseWriter, r *http.Request) {
	size, err1 := strconv.Atoi(r.FormValue("bytes"))
	rate, err2 := strconv.Atoi(cmp.Or(r.FormValue("rate"), strconv.Itoa(unpaced)))
	if err := errors.Join(err1, err2); err != nil || rate < 1 {
		http.Error(rw, "bytes and rate are positive numbers", http.StatusBadRequest)
		return
	}
	rw.Header().Set("Content-Length", strconv.Itoa(size))
	stream(rw, r, size, rate)
}

// stream sends size bytes, paced to rate bytes a second from the start on.
func stream(rw http.ResponseWriter, r *http.Request, size, rate int) {
	flush := http.NewResponseController(rw)
	block := make([]byte, chunk)
	start := time.Now()
	for sent := 0; sent < size; {
		n, err := rw.Write(block[:min(chunk, size-sent)])
		if err != nil || flush.Flush() != nil {
			return
		}
		sent += n
		due := start.Add(time.Duration(float64(sent) / float64(rate) * float64(time.Second)))
		select {
		case <-time.After(time.Until(due)):
		case <-r.Context().Done():
			return
		}
	}
}
