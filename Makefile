# Bulwark's two commands are `make up` and `make test`. Everything else serves them.

include tools/tools.mk

SHELL := /bin/bash
.DEFAULT_GOAL := help
OUT ?= $(CURDIR)/build
GOBUILD := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w'
# The engine is linked into the one binary; these are its parts that Bulwark does not use.
TAGS := no_cri,no_zfs,no_btrfs,no_devmapper,no_tracing

.PHONY: help build up down test check bench

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

build: ## build the program and its helpers into build/
	@mkdir -p $(OUT)/bin $(OUT)/libexec/bulwark/builder
	$(GOBUILD) -tags $(TAGS) -o $(OUT)/bin/bulwark ./cmd/bulwark
	$(GOBUILD) -o $(OUT)/libexec/bulwark/ ./cmd/bulwark-init ./cmd/bulwark-pack ./cmd/bulwark-hook
	$(GOBUILD) -o $(OUT)/libexec/bulwark/builder/ ./cmd/bulwark-builder ./cmd/bulwark-static

up: deps build bases ## as root: build, install, start, deploy an example, print its address and the login token
	@ENGINE_BIN=$(ENGINE_BIN) BULWARK_CACHE=$(BULWARK_CACHE) OUT=$(OUT) ./tools/up

down: ## as root: stop the platform
	$(OUT)/bin/bulwark down
