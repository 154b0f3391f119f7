package edge

import (
	"net/http"
)

// redirectServer answers on the plain port: it sends every known host to HTTPS and forwards nothing.
func (e *edge) redirectServer() *http.Server {
	return &http.Server{Handler: http.HandlerFunc(e.redirect), ReadHeaderTimeout: readHeaderTime, ReadTimeout: readHeaderTime,
		WriteTimeout: readHeaderTime, IdleTimeout: keepAliveTime, MaxHeaderBytes: maxHeaderBytes, ErrorLog: errorLog(e.cfg.Logger)}
}

// redirect answers one request. Hosts without a route get no redirect: the edge leads nobody to a place it does not
// serve.
func (e *edge) redirect(w http.ResponseWriter, r *http.Request) {
	w.Header()["Connection"] = []string{"close"} // the client goes elsewhere now
	host, _, ok := hostOf(r.Host)
	path, clean := target(r)
	if !ok || !clean {
		pageBadRequest.write(w, &e.plain, "", "")
		return
	}
	if reserved(path) {
		e.challenge(w, r, host, path)
		return
	}
	if e.tables.route(host) == nil {
		pageNoRoute.write(w, &e.plain, "", "")
		return
	}
	h := w.Header()
	e.plain.addTo(h)
	h["Content-Length"] = []string{"0"}
	h["Location"] = []string{"https://" + string(host) + e.httpsPort + path}
	status := http.StatusPermanentRedirect // keeps method and body
	if r.Method == "GET" || r.Method == "HEAD" {
		status = http.StatusMovedPermanently
	}
	w.WriteHeader(status)
}
