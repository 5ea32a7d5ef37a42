// Package pki makes the certificates by which the hosts of a cluster and its store know
// each other: an authority of the cluster's own, which signs nothing else.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// early is how much earlier than now a certificate is valid, for clocks that are slow.
const early = time.Hour

// Pair is a certificate with its key, both in PEM.
type Pair struct{ Cert, Key []byte }

// Authority signs certificates.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	Pair Pair
}

// NewAuthority makes an authority that lasts for a time.
func NewAuthority(name string, lasts time.Duration) (*Authority, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	pair, err := sign(template, lasts, nil)
	if err != nil {
		return nil, err
	}
	return Open(pair)
}

// Open reads an authority that NewAuthority made.
func Open(p Pair) (*Authority, error) {
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		return nil, fmt.Errorf("the authority's certificate and key: %w", err)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !cert.IsCA {
		return nil, fmt.Errorf("%q is no authority: it can't sign certificates", cert.Subject.CommonName)
	}
	return &Authority{cert, key, p}, nil
}

// Client makes the certificate of who calls the store: a host, or an administrator.
func (a *Authority) Client(name string, lasts time.Duration) (Pair, error) {
	return a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, lasts)
}

// Server makes the certificate of a member of the store that is reached at these
// addresses or names. It is a client's as well: members call each other.
func (a *Authority) Server(name string, at []string, lasts time.Duration) (Pair, error) {
	if len(at) == 0 {
		return Pair{}, errors.New("a server needs an address or a name at which it is reached")
	}
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, text := range at {
		if ip := net.ParseIP(text); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, text)
		}
	}
	return a.sign(c, lasts)
}

func (a *Authority) sign(c *x509.Certificate, lasts time.Duration) (Pair, error) {
	c.KeyUsage = x509.KeyUsageDigitalSignature
	return sign(c, lasts, a)
}

// sign makes a key and signs a certificate of it, by itself where there is no authority.
// No certificate lasts longer than who signs it.
func sign(c *x509.Certificate, lasts time.Duration, by *Authority) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	if c.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return Pair{}, err
	}
	now := time.Now()
	c.NotBefore, c.NotAfter = now.Add(-early), now.Add(lasts)
	parent, signer := c, crypto.Signer(key)
	if by != nil {
		parent, signer = by.cert, by.key
		if c.NotAfter.After(parent.NotAfter) {
			c.NotAfter = parent.NotAfter
		}
	}
	cert, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		return Pair{}, err
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}),
	}, nil
}
