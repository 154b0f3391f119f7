# Bulwark's two commands are `make up` and `make test`. Everything else serves them.

# Found also where sudo takes Go's own directory out of PATH.
GO ?= $(or $(shell command -v go),/usr/local/go/bin/go)
include tools/tools.mk

SHELL := /bin/bash
.DEFAULT_GOAL := help
OUT ?= $(CURDIR)/build
# The engine is linked into the one binary; these are its parts that Bulwark does not use.
TAGS := no_cri,no_zfs,no_btrfs,no_devmapper,no_tracing,no_fs_access
# Programs that the platform starts beside itself, and those that go into builders and instances.
LDFLAGS := -s -w
BUILDER := ./cmd/bulwark-builder ./cmd/bulwark-static
HELPERS := $(filter-out $(BUILDER),$(wildcard ./cmd/bulwark-*))
# git tells the version. It is also asked in a clone that is not root's own, where git by itself refuses to answer root.
GOBUILD := umask 022; GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=$(CURDIR) CGO_ENABLED=0 \
	$(GO) build -trimpath -buildvcs=auto -ldflags '$(LDFLAGS)'

.PHONY: help build up down uninstall test bench bench-edge machine check release root

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

root:
	@test "$$(id -u)" = 0 || { echo " !    This needs root: it makes network namespaces, user ids and containers. Try: sudo make $(MAKECMDGOALS)" >&2; exit 1; }
	@$(GO) version >/dev/null || { echo " !    Go is not installed, see https://go.dev/doc/install. The version that is needed is in go.mod." >&2; exit 1; }

build: ## build the program and its helpers into build/
	@umask 022; mkdir -p $(OUT)/bin $(OUT)/libexec/bulwark/builder
	$(GOBUILD) -tags $(TAGS) -o $(OUT)/bin/bulwark ./cmd/bulwark
	$(GOBUILD) -o $(OUT)/libexec/bulwark/ ./cmd/bulwark-init ./cmd/bulwark-cell ./cmd/bulwark-pack ./cmd/bulwark-sbom ./cmd/bulwark-unpack ./cmd/bulwark-hook ./cmd/bulwark-kit
	$(GOBUILD) -o $(OUT)/libexec/bulwark/builder/ ./cmd/bulwark-builder ./cmd/bulwark-static

up: root deps build engine-tools ## as root: install, start, deploy an example, print its address and the login token
	@bases=$$($(MAKE) --no-print-directory -s bases | tail -n 1) && \
		OUT=$(OUT) ENGINE_BIN=$(ENGINE_BIN) BASES=$$bases ./tools/up

down: ## as root: stop the platform and its apps
	@/usr/local/bin/bulwark down
	@if test -d /run/systemd/system; then systemctl stop bulwark-main; fi

uninstall: ## as root: remove the installation with all apps and data, and the programs
	@BULWARK_CACHE=$(BULWARK_CACHE) ./tools/uninstall

# What the tests run is built where every user of an installation may execute it; the clone may lie in a closed home.
TESTBUILD := $(BULWARK_CACHE)/testbuild
# Where .ci/run wants the last line of the test run.
TEST_RESULT ?=

test: root test-deps engine-tools check-tools test-tools ## as root: everything that must hold before a change lands
	@$(MAKE) --no-print-directory build OUT=$(TESTBUILD)
	@bases=$$($(MAKE) --no-print-directory -s bases | tail -n 1) && \
		GO=$(GO) TAGS=$(TAGS) CHECK_BIN=$(CHECK_BIN) TEST_RESULT=$(TEST_RESULT) BULWARK_CACHE=$(BULWARK_CACHE) \
		BULWARK_BIN_DIR=$(TESTBUILD) BULWARK_ENGINE_BIN=$(ENGINE_BIN) BULWARK_TEST_TOOLS=$(TEST_BIN) BULWARK_BASES=$$bases ./tools/test

# What is measured is built as it is released, and lies where every user of an installation may execute it.
BENCHBUILD := $(BULWARK_CACHE)/benchbuild
ONLY ?=
RUNS ?= 10
JSON ?=
bench: root bench-deps engine-tools ## as root: the numbers of docs/numbers.md. ONLY=push,edge some of them; RUNS=20; JSON=FILE
	@$(MAKE) --no-print-directory build OUT=$(BENCHBUILD)
	$(GO) test -c -tags bench -o $(BENCHBUILD)/bench ./e2e
	@bases=$$($(MAKE) --no-print-directory -s bases | tail -n 1) && \
		cd e2e && BULWARK_BIN_DIR=$(BENCHBUILD) BULWARK_ENGINE_BIN=$(ENGINE_BIN) BULWARK_BASES=$$bases \
		$(BENCHBUILD)/bench -test.run '^TestBench$$' -test.timeout 2h -only '$(ONLY)' -runs $(RUNS) -nginx $(BENCH_NGINX) -json '$(if $(JSON),$(abspath $(JSON)))'

bench-edge: root bench-edge-deps engine-tools ## as root: the edge beside nginx, HAProxy, ModSecurity and a plain proxy in Go. ONLY=get,waf; RUNS; JSON
	@$(MAKE) --no-print-directory build OUT=$(BENCHBUILD)
	$(GO) test -c -tags bench -o $(BENCHBUILD)/bench ./e2e
	@bases=$$($(MAKE) --no-print-directory -s bases | tail -n 1) && \
		cd e2e && BULWARK_BIN_DIR=$(BENCHBUILD) BULWARK_ENGINE_BIN=$(ENGINE_BIN) BULWARK_BASES=$$bases \
		$(BENCHBUILD)/bench -test.run '^TestBenchEdge$$' -test.timeout 2h -only '$(ONLY)' -runs $(RUNS) -nginx $(BENCH_PEERS)/usr/sbin/nginx -peers $(BENCH_PEERS) \
		-json '$(if $(JSON),$(abspath $(JSON)))'

# A whole machine, as a release's user has one: a virtual one, of Debian 12, without a network.
# With KVM it takes minutes; where there is none that runs Debian's kernel, the machine is emulated, which takes hours.
KEEP ?=
BEGIN ?=
machine: root machine-deps ## as root: install the release on a virtual machine, turn its clock, cut its power. KEEP=DIR and BEGIN=STORY
	@$(MAKE) --no-print-directory release
	CGO_ENABLED=0 $(GO) test -c -tags machine -o $(DIST)/machine ./e2e/machine
	@cd e2e/machine && $(DIST)/machine -test.run '^TestMachine$$' -test.v -test.timeout 4h -dist $(DIST) -cache $(BULWARK_CACHE) -keep '$(if $(KEEP),$(abspath $(KEEP)))' -begin '$(BEGIN)'

check: check-tools ## the checks of the code alone, without the tests
	@GO=$(GO) TAGS=$(TAGS) CHECK_BIN=$(CHECK_BIN) ./tools/test checks

VERSION ?= $(shell git describe --tags --match 'v*' --always --dirty 2>/dev/null | sed 's/^v//')
DIST := $(OUT)/dist
# A package's programs lie in one directory, where `bulwark up` looks for the engine unless told otherwise.
release: root deps engine-tools check-tools ## as root: a Debian package, a tarball, and the base images, in build/dist
	@rm -rf $(DIST) && $(MAKE) --no-print-directory build OUT=$(DIST)/stage
	@install -m 0755 $(ENGINE_BIN)/* $(DIST)/stage/libexec/bulwark/
	@cd packaging && ARCH=$$($(GO) env GOARCH) VERSION=$$(echo '$(VERSION)' | grep -E '^[0-9]' || echo '0.0.0~$(VERSION)') STAGE=$(DIST)/stage \
		$(CHECK_BIN)/nfpm package --packager deb --target $(DIST)
	@tar -C $(DIST)/stage --owner=0 --group=0 --sort=name --mtime=@$$(git log -1 --format=%ct 2>/dev/null || echo 0) \
		-czf $(DIST)/bulwark_$(VERSION)_linux_$$($(GO) env GOARCH).tar.gz bin libexec
	@$(MAKE) --no-print-directory -s bases ARCHIVE=$(DIST)
	@rm -rf $(DIST)/stage && cd $(DIST) && sha256sum -- * > SHA256SUMS && cat SHA256SUMS
