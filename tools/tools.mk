# Rules that build the programs Bulwark runs beside itself (runc, gVisor's runsc, the containerd shim, buildkitd) and the programs that
# check its code. The root Makefile includes this file.
#
# Every program has a Go module of its own under tools/, so that it is built of exactly the dependency versions that its
# authors chose and tested: a dependency that another program wants newer cannot slip into runc. Versions are in the
# `tool` and `require` lines of those go.mod files, checksums in their go.sum; -mod=readonly makes a build that would
# change either of them fail.
#
#   make deps           installs the Debian packages that are missing
#   make bench-deps     the same for `make bench`, and brings nginx to measure beside
#   make bench-edge-deps  the same for `make bench-edge`, and brings what the edge is measured beside
#   make engine-tools   builds the engine's programs unless they are there, and prints their directory
#   make check-tools    the same for linters and packagers
#   make test-tools     the same for what the tests alone run: a container registry, a certificate authority with its name server; and
#                       beside them, in corpus/, the attacks and harmless texts that the firewall is measured with
#   $(ENGINE_BIN)       that directory, $(CHECK_BIN) and $(TEST_BIN) the other ones. They are computed on first use: name them in recipes.

BULWARK_CACHE ?= /var/cache/bulwark
GO ?= go
TOOLS_DIR := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))

DEPS_PACKAGES := gcc libc6-dev pkg-config libseccomp-dev git openssh-client mmdebstrap nftables e2fsprogs ca-certificates curl
# Beside them what the tests alone need: systemd-analyze, and a checker for our scripts.
TEST_PACKAGES := systemd shellcheck testssl.sh chromium-headless-shell knot slowhttptest
ENGINE_MODULES := runc runsc shim buildkit
CHECK_MODULES := golangci-lint govulncheck nfpm
TEST_MODULES := registry pebble h2spec corpus
# Data of these packages: attacks, and texts in several languages. They are unpacked and not installed.
CORPUS_PACKAGES := wfuzz fortunes fortunes-min fortunes-de fortunes-it fortunes-es fortunes-br fortunes-pl
# Its place is beside that of the programs.
corpus-fetch = echo "fetching what the firewall is measured with" >&2; mkdir $$new/corpus $$new/deb; \
	cp -r --no-preserve=mode $$(cd $(TOOLS_DIR)/corpus && GOFLAGS=-mod=readonly GOWORK=off $(GO) mod download -json github.com/wallarm/gotestwaf | \
		sed -n 's/.*"Dir": "\(.*\)".*/\1/p')/testcases $$new/corpus/gotestwaf; \
	(cd $$new/deb && { apt-get -q -o APT::Sandbox::User=root download $(CORPUS_PACKAGES) || \
		{ apt-get -q update && apt-get -q -o APT::Sandbox::User=root download $(CORPUS_PACKAGES); }; } >&2 && for d in *.deb; do dpkg-deb -x $$d .; done); \
	cp -r $$new/deb/usr/share/wfuzz/wordlist/Injections $$new/corpus/wfuzz; mkdir $$new/corpus/fortunes; \
	cp -rL $$new/deb/usr/share/games/fortunes* $$new/corpus/fortunes; rm -rf $$new/deb

# Its own installation would fetch lists from elsewhere, of which it needs that of preloaded hosts: here an empty one.
observatory-fetch = echo "fetching the Observatory" >&2; cp -r $(TOOLS_DIR)/observatory $$new/observatory; \
	(cd $$new/observatory && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 && mkdir -p node_modules/@mdn/mdn-http-observatory/conf && \
		echo '{}' > node_modules/@mdn/mdn-http-observatory/conf/hsts-preload.json)

# The tags and the static, position-independent link of runc are those of its own Makefile, less libpathrs (a Rust
# library that Debian 12 does not have; runc then takes its own Go code for the same checks).
RUNC_FLAGS := -buildmode=pie -tags 'seccomp netgo osusergo urfave_cli_no_docs' \
	-ldflags '-s -w -linkmode external -extldflags -static-pie'
SHIM_FLAGS := -ldflags '-s -w -X github.com/containerd/containerd/v2/version.Version=v2.4.2'
BUILDKIT_FLAGS := -tags 'netgo osusergo' -ldflags '-s -w -X github.com/moby/buildkit/version.Version=v0.33.1'
# BuildKit has a proxy of its own for steps, which Bulwark does not use: a builder's only way out is the platform's. At each
# start it makes an RSA key for it, a third of the processor time that the start takes. So the file that BuildKit has for
# systems without that proxy stands in the place of the one for Linux, in a vendored copy of what go.sum names.
# $(call buildkit-vendor,DIR) makes that copy.
BUILDKIT_PROXY := vendor/github.com/moby/buildkit/util/network/proxyprovider
buildkit-vendor = mkdir -p $1 && cp $(TOOLS_DIR)/buildkit/go.mod $(TOOLS_DIR)/buildkit/go.sum $1 && \
	(cd $1 && GOFLAGS=-mod=readonly GOWORK=off $(GO) mod vendor && cd $(BUILDKIT_PROXY) && rm provider_linux.go && sed -i '/^\/\/go:build !linux$$/d' provider_unsupported.go)

# $(call go-build,MODULE,CGO,BINARY,PACKAGE,FLAGS) builds one program into $$new/bin. GOFLAGS and GOWORK are fixed, so
# that somebody's environment does not change what is built.
go-build = echo "building $3" >&2; (cd $(TOOLS_DIR)/$1 && GOFLAGS=-mod=readonly GOWORK=off CGO_ENABLED=$2 \
	$(GO) build -trimpath -buildvcs=false $5 -o "$$new/bin/$3" $4)

# A key is a hash over everything that decides the result. runc is linked with Debian's C libraries, so their versions
# are part of it: a fixed libseccomp makes a new runc.
ENGINE_KEY = $(eval ENGINE_KEY := $(shell cd $(TOOLS_DIR) && { $(GO) version; $(GO) env GOOS GOARCH; \
	dpkg-query -W gcc libc6-dev libseccomp-dev; \
	echo $(RUNC_FLAGS) $(SHIM_FLAGS) $(BUILDKIT_FLAGS) $(BUILDKIT_PROXY); cat $(foreach m,$(ENGINE_MODULES),$m/go.mod $m/go.sum); } | sha256sum | cut -c1-16))$(ENGINE_KEY)
CHECK_KEY = $(eval CHECK_KEY := $(shell cd $(TOOLS_DIR) && { $(GO) version; $(GO) env GOOS GOARCH; \
	cat $(foreach m,$(CHECK_MODULES),$m/go.mod $m/go.sum); } | sha256sum | cut -c1-16))$(CHECK_KEY)
TEST_KEY = $(eval TEST_KEY := $(shell cd $(TOOLS_DIR) && { $(GO) version; $(GO) env GOOS GOARCH; echo $(CORPUS_PACKAGES); \
	cat $(foreach m,$(TEST_MODULES),$m/go.mod $m/go.sum) observatory/*; } | sha256sum | cut -c1-16))$(TEST_KEY)
ENGINE_BIN = $(BULWARK_CACHE)/tools/$(ENGINE_KEY)/bin
CHECK_BIN = $(BULWARK_CACHE)/tools/$(CHECK_KEY)/bin
TEST_BIN = $(BULWARK_CACHE)/tools/$(TEST_KEY)/bin

# $(call once,BIN,BUILDS) runs BUILDS unless BIN is there. The directory appears by one rename, so it is whole or absent,
# and the lock makes a second make wait for the first instead of building the same again.
once = @set -e; umask 022; mkdir -p $(BULWARK_CACHE)/tools; exec 9>$(BULWARK_CACHE)/tools/lock; flock 9; \
	if ! test -d $1; then \
		new=$$(mktemp -d $(BULWARK_CACHE)/tools/new.XXXXXX); trap 'rm -rf "$$new"' EXIT; chmod 0755 "$$new"; \
		$2; \
		mv -T "$$new" $(patsubst %/bin,%,$1); \
	fi; echo $1

.PHONY: deps test-deps engine-tools check-tools test-tools

test-deps: DEPS_PACKAGES += $(TEST_PACKAGES)
# npm brings the pinned Node.js for the bases; a host often has one that is not Debian's.
deps test-deps:
	@missing=$$(for p in $(DEPS_PACKAGES); do \
		dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done; \
		test -x /usr/bin/npm || test -x /usr/local/bin/npm || echo npm); \
	if test -n "$$missing"; then \
		echo "installing" $$missing; export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -q && apt-get install -q -y --no-install-recommends $$missing; \
	fi

# What the numbers are taken with. nginx is unpacked and not installed: installing it starts a server on port 80.
.PHONY: bench-deps
BENCH_NGINX := $(BULWARK_CACHE)/bench/nginx/usr/sbin/nginx
bench-deps: DEPS_PACKAGES += nghttp2-client libpcre2-8-0 libssl3 zlib1g
bench-deps: deps
	@if ! test -x $(BENCH_NGINX); then \
		umask 022; new=$$(mktemp -d $(BULWARK_CACHE)/nginx.XXXXXX); trap 'rm -rf "$$new"' EXIT; chmod 0755 "$$new"; \
		cd "$$new" && apt-get -q -o APT::Sandbox::User=root download nginx && dpkg-deb -x nginx_*.deb nginx && \
		mkdir -p $(BULWARK_CACHE)/bench && mv -T nginx $(BULWARK_CACHE)/bench/nginx; \
	fi

# What the edge is measured beside, with the libraries that it alone needs: unpacked, and not installed, as nginx above.
.PHONY: bench-edge-deps
BENCH_PEERS := $(BULWARK_CACHE)/bench/peers
PEER_PACKAGES := nginx haproxy libnginx-mod-http-modsecurity libnginx-mod-http-ndk libmodsecurity3 modsecurity-crs libfuzzy2 libgeoip1 liblua5.3-0 \
	libmaxminddb0 libyajl2 libcurl3-gnutls libxml2 libopentracing-c-wrapper0 libopentracing1
bench-edge-deps: DEPS_PACKAGES += nghttp2-client libpcre2-8-0 libssl3 zlib1g libsystemd0 libcrypt1 linux-perf
bench-edge-deps: deps
	@if ! test -x $(BENCH_PEERS)/usr/sbin/haproxy; then \
		umask 022; new=$$(mktemp -d $(BULWARK_CACHE)/peers.XXXXXX); trap 'rm -rf "$$new"' EXIT; chmod 0755 "$$new"; \
		cd "$$new" && apt-get -q -o APT::Sandbox::User=root download $(PEER_PACKAGES) && \
		for p in *.deb; do dpkg-deb -x "$$p" peers || exit 1; done && \
		mkdir -p $(BULWARK_CACHE)/bench && mv -T peers $(BENCH_PEERS); \
	fi

# A virtual machine.
.PHONY: machine-deps
machine-deps: DEPS_PACKAGES += qemu-system-x86
machine-deps: deps

engine-tools: deps
	$(call once,$(ENGINE_BIN),\
	$(call go-build,runc,1,runc,github.com/opencontainers/runc,$(RUNC_FLAGS)); \
	$(call go-build,shim,0,containerd-shim-runc-v2,github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2,$(SHIM_FLAGS)); \
	$(call go-build,runsc,0,runsc,gvisor.dev/gvisor/runsc,-ldflags '-s -w'); \
	$(call buildkit-vendor,$$new/buildkit); echo "building buildkitd" >&2; \
	(cd $$new/buildkit && GOFLAGS=-mod=vendor GOWORK=off CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false $(BUILDKIT_FLAGS) \
		-o $$new/bin/buildkitd github.com/moby/buildkit/cmd/buildkitd); rm -rf $$new/buildkit)

check-tools:
	$(call once,$(CHECK_BIN),\
	$(call go-build,golangci-lint,0,golangci-lint,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,-ldflags '-s -w'); \
	$(call go-build,govulncheck,0,govulncheck,golang.org/x/vuln/cmd/govulncheck,-ldflags '-s -w'); \
	$(call go-build,nfpm,0,nfpm,github.com/goreleaser/nfpm/v2/cmd/nfpm,-ldflags '-s -w'))

test-tools: deps
	$(call once,$(TEST_BIN),\
	$(call go-build,registry,0,registry,github.com/distribution/distribution/v3/cmd/registry,-ldflags '-s -w'); \
	$(call go-build,pebble,0,pebble,github.com/letsencrypt/pebble/v2/cmd/pebble,-ldflags '-s -w'); \
	$(call go-build,pebble,0,pebble-challtestsrv,github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv,-ldflags '-s -w'); \
	$(call go-build,h2spec,0,h2spec,github.com/summerwind/h2spec/cmd/h2spec,-ldflags '-s -w'); \
	$(corpus-fetch); \
	$(observatory-fetch))

# Base images for tests and for a release, made once; "bulwark bases make" does the same on a server. Prints their directory;
# with ARCHIVE=DIR it writes them into one file there, for "bulwark bases add".
.PHONY: bases
ARCHIVE ?=
bases: engine-tools
	@cd $(TOOLS_DIR)/.. && $(GO) run ./internal/base/makebases -dir $(BULWARK_CACHE)/bases \
		-cache $(BULWARK_CACHE)/downloads -engine $(ENGINE_BIN) $(if $(ARCHIVE),-archive $(ARCHIVE))
