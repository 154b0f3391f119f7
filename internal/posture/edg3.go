package posture

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

func edg3() Control {
	return Control{ID: "EDG-3", Version: 2, Every: hourly,
		Promise: "Security headers are on every response; an app may tighten them, and never loses them silently.",
		Tries:   "Looks at the headers of an app that sets none, of one that sets looser ones, at those of the edge's own pages, and at what an app's answer tells of what it runs on.",
		Probe:   probeEDG3}
}

func probeEDG3(ctx context.Context, w *World, r *Record) error {
	_, v, err := w.model(ctx)
	if err != nil {
		return err
	}
	page, err := v.ask(ctx, http.MethodGet, "/", "")
	if err != nil {
		return err
	}
	r.Proven("the app answers", page.status == http.StatusOK && page.text == "bulwark-kit\n", fmt.Sprint(page.status))
	loose, err := v.ask(ctx, http.MethodGet, "/loose", "")
	if err != nil {
		return err
	}
	r.Proven("the app answers with looser headers", loose.text == "loose\n", loose.text)
	own, err := v.ask(ctx, "BREW", "/", "") // refused by the edge itself, if not by the app
	if err != nil {
		return err
	}
	none := *v
	none.host = "nobody." + string(w.Installation.Domain)
	none.tls = v.tls.Clone()
	none.tls.ServerName = none.host
	nobody, err := none.ask(ctx, http.MethodGet, "/", "")
	if err != nil {
		return err
	}
	r.Proven("the edge has a page of its own for a name without an app", nobody.status == http.StatusNotFound, fmt.Sprint(nobody.status))
	for what, a := range map[string]*heard{"an app's page": page, "an app's page that says otherwise": loose, "an app's answer to a method that it does not know": own, "a page of the edge": nobody} {
		for name, good := range map[string]func(string) bool{
			"Strict-Transport-Security": func(s string) bool { return maxAge(s) >= 365*24*3600 },
			"X-Content-Type-Options":    func(s string) bool { return s == "nosniff" },
			"X-Frame-Options":           func(s string) bool { return s == "SAMEORIGIN" || s == "DENY" },
			"Referrer-Policy":           func(s string) bool { return s != "" && s != "unsafe-url" },
			"Permissions-Policy": func(s string) bool { // the last word counts
				return strings.HasPrefix(s[max(0, strings.LastIndex(s, "camera=")):], "camera=()")
			},
		} {
			got := strings.Join(a.header[name], ", ")
			r.Refused(fmt.Sprintf("get %s without %s", what, name), good(got), got)
		}
	}
	policy := nobody.header.Get("Content-Security-Policy")
	r.Refused("have a script, a form or a frame in a page of the edge", strings.Contains(policy, "default-src 'none'") && strings.Contains(policy, "form-action 'none'") &&
		strings.Contains(policy, "frame-ancestors 'none'"), policy)
	frames := strings.Join(loose.header["Content-Security-Policy"], ", ")
	r.Refused("have an app's page in anybody's frame because the app says so", strings.Contains(frames, "frame-ancestors 'self'"), frames)
	for _, name := range []string{"Server", "X-Powered-By"} {
		r.Refused("be told by "+name+" what runs", loose.header.Get(name) == "", loose.header.Get(name))
	}
	return nil
}

// maxAge is that of a header Strict-Transport-Security, in seconds.
func maxAge(s string) int {
	for part := range strings.SplitSeq(s, ";") {
		if n, ok := strings.CutPrefix(strings.TrimSpace(part), "max-age="); ok {
			if v, err := strconv.Atoi(n); err == nil {
				return v
			}
		}
	}
	return 0
}
