package posture

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

func edg1() Control {
	return Control{ID: "EDG-1", Version: 1, Every: hourly,
		Promise: "HTTPS by default: every app answers with a certificate that holds, is sent there from http, and no certificate is left to end.",
		Tries: "Asks an app without TLS; asks for a name that nobody has, and for another app's over a connection that was made for this one; looks at the certificate that is served, " +
			"and for claimed names whose certificate was due to be renewed and was not.",
		Probe: probeEDG1}
}

func probeEDG1(ctx context.Context, w *World, r *Record) error {
	_, v, err := w.model(ctx)
	if err != nil {
		return err
	}
	got, err := v.ask(ctx, http.MethodGet, "/", "")
	if err != nil {
		return err
	}
	leaf := got.tls.PeerCertificates[0]
	r.Proven("the app answers over HTTPS, with a certificate that its authority vouches for", got.status == http.StatusOK, fmt.Sprint(got.status))
	left := time.Until(leaf.NotAfter)
	r.Refused("be served a certificate that ends within a week", left > 7*24*time.Hour, "until "+leaf.NotAfter.UTC().Format(time.RFC3339))
	plain, err := w.unsecured(ctx, v.host, "/a?b=c")
	if err != nil {
		return err
	}
	to := plain.header.Get("Location")
	r.Refused("be answered without TLS", plain.status/100 == 3 && strings.HasPrefix(to, "https://"+v.host) && strings.HasSuffix(to, "/a?b=c"), fmt.Sprintf("%d %s", plain.status, to))
	plain, err = w.unsecured(ctx, v.host, "/.well-known/acme-challenge/none")
	if err != nil {
		return err
	}
	r.Refused("have an app, or a redirect, answer to certificate authorities", plain.status == http.StatusNotFound, fmt.Sprint(plain.status))
	nobody := v.tls.Clone()
	nobody.ServerName = "nobody.example.org"
	nobody.InsecureSkipVerify = true //nolint:gosec // it is asked whether there is one at all
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", v.at, nobody)
	if err == nil {
		c.Close()
	}
	r.Refused("be served a certificate for a name that nobody has", err != nil, fmt.Sprint(err))
	var states []struct {
		Host     string    `json:"host"`
		NotAfter time.Time `json:"not_after"`
		RenewAt  time.Time `json:"renew_at"`
	}
	if err := w.Person.node.Call(ctx, "certificates", struct{}{}, &states); err != nil {
		return err
	}
	late := ""
	for _, st := range states {
		if !st.NotAfter.IsZero() && time.Now().After(st.RenewAt.Add(st.NotAfter.Sub(st.RenewAt)/2)) {
			late = fmt.Sprintf("%s ends on %s", st.Host, st.NotAfter.UTC().Format(time.DateOnly))
		}
	}
	r.Refused("have a claimed name's certificate left without renewal for half of the time that is for it", late == "", fmt.Sprintf("%d names; %s", len(states), late))
	return nil
}
