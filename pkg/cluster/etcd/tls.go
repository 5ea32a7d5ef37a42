package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// Files are where the certificates are that this host and etcd know each other by.
type Files struct {
	CA   string // who signs both
	Cert string // this host's, whose common name is that of the host, and of its user in etcd
	Key  string
}

// Identity is who a certificate says that this host is.
type Identity struct {
	Host string
	Ends time.Time
}

// Load reads the files. Who this host is it returns with the error as well where the
// certificate has ended. The certificate is read anew for each connection, so that one
// that is replaced counts without a restart.
func (f Files) Load() (*tls.Config, Identity, error) {
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, Identity{}, fmt.Errorf("ca: %s has no certificate in PEM", f.CA)
	}
	pair, err := f.pair()
	if err != nil {
		return nil, Identity{}, err
	}
	id := Identity{Host: pair.Leaf.Subject.CommonName, Ends: pair.Leaf.NotAfter}
	if err := record.CheckHost(id.Host); err != nil {
		return nil, Identity{}, fmt.Errorf("cert: the common name of %s: %w", f.Cert, err)
	}
	if time.Now().After(id.Ends) {
		return nil, id, fmt.Errorf("cert: %s ended on %s", f.Cert, id.Ends.Format(time.DateOnly))
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return f.pair() },
	}, id, nil
}

func (f Files) pair() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("cert %s, key %s: %w", f.Cert, f.Key, err)
	}
	if pair.Leaf == nil {
		pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0])
	}
	return &pair, err
}

// Check reports why no member of etcd lets this host in: what is called else is tried over
// and over again until its time is up.
func (s *Store) Check(ctx context.Context) error {
	reasons := s.reasons(ctx)
	if slices.Contains(reasons, nil) {
		return nil
	}
	return errors.Join(reasons...)
}

// barred has an error once it is known that all members of etcd refuse this host by a certificate.
// They are asked when an answer is overdue.
func (s *Store) barred(ctx context.Context) <-chan error {
	barred := make(chan error, 1)
	if s.cfg.TLS == nil {
		return barred
	}
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(askAgain):
		}
		reasons := s.reasons(ctx)
		for _, err := range reasons {
			if _, is := errors.AsType[*CertificateError](err); !is {
				return
			}
		}
		barred <- errors.Join(reasons...)
	}()
	return barred
}

// reasons are why each member of etcd does not let this host in, nil where it does.
func (s *Store) reasons(ctx context.Context) []error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	reasons := make([]error, len(s.cfg.Endpoints))
	var all sync.WaitGroup
	for i, endpoint := range s.cfg.Endpoints {
		all.Go(func() {
			u, err := url.Parse(endpoint)
			if err == nil {
				err = refused(ctx, u.Host, s.cfg.TLS)
			}
			if err != nil {
				reasons[i] = fmt.Errorf("%s: %w", endpoint, s.explain(err))
			}
		})
	}
	all.Wait()
	return reasons
}

// CertificateError says that this host and etcd do not know each other by their certificates.
type CertificateError struct {
	what string
	err  error
}

func (e *CertificateError) Error() string { return e.what + ": " + e.err.Error() }
func (e *CertificateError) Unwrap() error { return e.err }

// explain says whose certificate is at fault, if one is.
func (s *Store) explain(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" { // an alert, RFC 8446 section 6
		return &CertificateError{fmt.Sprintf("etcd does not take the certificate of %q: another authority signed it, or it ended", s.user()), err}
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return &CertificateError{"etcd's certificate is not signed by this cluster's authority", err}
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &CertificateError{"etcd's certificate is not good there", err}
	}
	return err
}

// user is who this host is for etcd: the common name of its certificate.
func (s *Store) user() string {
	if s.cfg.TLS == nil || s.cfg.TLS.GetClientCertificate == nil {
		return ""
	}
	pair, err := s.cfg.TLS.GetClientCertificate(nil)
	if err != nil || pair.Leaf == nil {
		return ""
	}
	return pair.Leaf.Subject.CommonName
}

// refusal says why no connection comes about, once there was no answer in time.
func (s *Store) refusal(ctx context.Context) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil
	}
	return s.Check(context.WithoutCancel(ctx))
}

// asksForCertificates reports a member of etcd that lets in who has no certificate.
func (s *Store) asksForCertificates(ctx context.Context) error {
	if s.cfg.TLS == nil {
		return errors.New("etcd is reached without certificates: it can't know who calls")
	}
	nobody := s.cfg.TLS.Clone()
	nobody.GetClientCertificate = nil
	for _, endpoint := range s.cfg.Endpoints {
		u, err := url.Parse(endpoint)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, answerWithin)
		err = refused(ctx, u.Host, nobody)
		cancel()
		if err == nil {
			return fmt.Errorf("%s lets in who has no certificate: start etcd with --client-cert-auth (ETCD_CLIENT_CERT_AUTH=true)", endpoint)
		}
	}
	return nil
}

// refused connects, and reads the first byte: only then is it known whether the client's
// certificate is taken (RFC 8446 section 4.4.2.4).
func refused(ctx context.Context, host string, cfg *tls.Config) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if cfg == nil {
		return nil
	}
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2"}
	if cfg.ServerName, _, err = net.SplitHostPort(host); err != nil {
		return err
	}
	end, _ := ctx.Deadline()
	if err := conn.SetDeadline(end); err != nil {
		return err
	}
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		return err
	}
	_, err = secure.Read(make([]byte, 1)) // the server's settings come first (RFC 9113 section 3.4)
	return err
}
