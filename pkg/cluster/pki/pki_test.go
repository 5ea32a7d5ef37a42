package pki

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"
)

// leaf is the certificate of a pair.
func leaf(t *testing.T, p Pair, err error) *x509.Certificate {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCertificates(t *testing.T) {
	made, err := NewAuthority("vnetd cluster lab", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := Open(made.Pair)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	server, err := ca.Server("etcd", []string{"10.0.0.1", "fd00::1", "etcd1"}, time.Minute)
	s := leaf(t, server, err)
	for _, name := range []string{"10.0.0.1", "fd00::1", "etcd1"} {
		if _, err := s.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("etcd at %s: %v", name, err)
		}
	}
	if _, err := s.Verify(x509.VerifyOptions{Roots: roots, DNSName: "10.0.0.2"}); err == nil {
		t.Error("etcd's certificate is good at another address")
	}
	client, err := ca.Client("h1", 2*time.Hour)
	c := leaf(t, client, err)
	if _, err := c.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil || c.Subject.CommonName != "h1" {
		t.Errorf("the certificate of %s: %v", c.Subject, err)
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a host may pass for etcd")
	}
	if c.NotAfter.After(ca.cert.NotAfter) || c.IsCA {
		t.Errorf("the certificate lasts until %v, the authority until %v, is one %v", c.NotAfter, ca.cert.NotAfter, c.IsCA)
	}
	if _, err := Open(client); err == nil {
		t.Error("a host's certificate passes for an authority")
	}
	if _, err := ca.Server("etcd", nil, time.Minute); err == nil {
		t.Error("a server that is nowhere has a certificate")
	}
}
