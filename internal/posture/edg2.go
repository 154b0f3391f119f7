package posture

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

func edg2() Control {
	return Control{ID: "EDG-2", Version: 1, Every: hourly,
		Promise: "Ciphers follow the times: TLS 1.2 and 1.3 with forward secrecy and authenticated encryption, and a key exchange that a quantum computer does not open.",
		Tries:   "Offers older versions of TLS, ciphers without forward secrecy or with CBC, and takes a session up again; offers what is current, and looks what is chosen.",
		Probe:   probeEDG2}
}

func probeEDG2(ctx context.Context, w *World, r *Record) error {
	_, v, err := w.model(ctx)
	if err != nil {
		return err
	}
	shake := func(change func(*tls.Config)) (*tls.ConnectionState, error) {
		conf := v.tls.Clone()
		change(conf)
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: conf}
		c, err := d.DialContext(ctx, "tcp", v.at)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		if conf.ClientSessionCache != nil { // tickets of TLS 1.3 come behind the handshake
			_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			_, _ = c.Read(make([]byte, 1))
		}
		st := c.(*tls.Conn).ConnectionState()
		return &st, nil
	}
	now, err := shake(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519, tls.X25519MLKEM768} })
	if err != nil {
		return err
	}
	r.Proven("a client of today gets through", now.Version == tls.VersionTLS13, tls.VersionName(now.Version))
	r.Refused("have a key exchange chosen that a quantum computer opens, where another is offered", now.CurveID == tls.X25519MLKEM768, now.CurveID.String())
	old, err := shake(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
	r.Proven("a client of TLS 1.2 gets through, so that what follows is refused for what it is", err == nil && old.Version == tls.VersionTLS12, fmt.Sprint(err))
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		_, err := shake(func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
		r.Refused("speak "+tls.VersionName(version), err != nil, fmt.Sprint(err))
	}
	for _, suite := range []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_RSA_WITH_RC4_128_SHA} {
		_, err := shake(func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{suite} })
		r.Refused("use "+tls.CipherSuiteName(suite), err != nil, fmt.Sprint(err))
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		sessions := tls.NewLRUClientSessionCache(4)
		resumed := false
		for range 2 {
			st, err := shake(func(c *tls.Config) { c.MaxVersion, c.ClientSessionCache = version, sessions })
			if err != nil {
				return err
			}
			resumed = resumed || st.DidResume
		}
		r.Refused("take a session of "+tls.VersionName(version)+" up again by a ticket, whose key would open what was recorded", !resumed, fmt.Sprint(resumed))
	}
	return nil
}
