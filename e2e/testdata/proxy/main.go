// Command proxy is what Go's standard library has for the edge's job, and nothing else: the edge is measured beside it.
package main

import (
	"crypto/tls"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"
)

// Its arguments are the address to listen at, the app's URL, and the files of the certificate and its key.
func main() {
	log.SetFlags(0)
	if len(os.Args) != 5 {
		log.Fatal("usage: proxy ADDRESS URL CERTIFICATE KEY")
	}
	app, err := url.Parse(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(app)
	proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}
	s := &http.Server{Addr: os.Args[1], Handler: proxy, ReadHeaderTimeout: 10 * time.Second, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13}}
	log.Fatal(s.ListenAndServeTLS(os.Args[3], os.Args[4]))
}
