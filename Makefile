# Targets: see `make help`. `make demo` and `make check` need nothing but a
# Debian 12 with Go, and root; they install what else they need.

SHELL       := /bin/bash -o pipefail
GO          ?= go
PREFIX      ?= /usr
SYSCONFDIR  ?= /etc
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
TOOLS       := $(CURDIR)/.cache/tools
FUZZTIME    ?= 30s
BENCHTIME   ?= 1s

export GOTOOLCHAIN ?= local
export CGO_ENABLED ?= 0
export PATH := /usr/local/sbin:/usr/sbin:/sbin:$(PATH)

# name@version of each lint tool; all are built by the Go in use.
LINT_TOOLS := \
	mvdan.cc/gofumpt@v0.12.0 \
	honnef.co/go/tools/cmd/staticcheck@v0.8.2 \
	github.com/kisielk/errcheck@v1.9.0 \
	github.com/fzipp/gocyclo/cmd/gocyclo@v0.6.0

# What makes the packages, built in the same way.
NFPM := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0

.DEFAULT_GOAL := build
.PHONY: help build demo check deps lint test e2e e2e-systemd fuzz bench install deb clean

help: ## say what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## compile the binaries into bin/
	$(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/...

demo: deps build ## a NAT network from its XML to a guest that reaches the outside
	$(GO) run ./test/demo

check: deps ## everything that CI runs
	@start=$$SECONDS; \
	for target in lint build test e2e; do \
		echo "== make $$target"; $(MAKE) --no-print-directory $$target || exit; \
	done; echo "== all passed in $$((SECONDS - start)) s"

deps: ## install what is missing: Debian packages, Go modules, the guest's kernel
	@sh test/deps.sh
	@$(GO) mod download

lint: $(TOOLS)/.installed ## formatting, vet, static checks, complexity
	@fault=$$($(TOOLS)/gofumpt -l $$(git ls-files '*.go')); \
		if [ -n "$$fault" ]; then echo "not formatted by gofumpt:"; echo "$$fault"; exit 1; fi
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(TOOLS)/staticcheck ./...
	$(TOOLS)/errcheck -ignoretests -exclude .errcheck ./...
	$(TOOLS)/gocyclo -over 15 $$(git ls-files '*.go')
	shellcheck $$(git ls-files '*.sh' 'packaging/*inst' 'packaging/*rm') .ci/run

$(TOOLS)/.installed: Makefile
	@mkdir -p $(TOOLS)
	@for tool in $(LINT_TOOLS); do GOBIN=$(TOOLS) $(GO) install $$tool || exit; done
	@touch $@

test: ## unit and kernel tests, each kernel test in namespaces of its own
	CGO_ENABLED=1 $(GO) test -race -shuffle=on -timeout 15m $$($(GO) list ./... | grep -v '/test/e2e')
	@$(GO) test -count=1 -v -run Libvirt ./pkg/netdef | grep -E 'libvirt-|^ok'

e2e: build ## the built binaries from outside, with a QEMU guest
	$(GO) test -count=1 -timeout 15m -v ./test/e2e

e2e-systemd: deb ## the packages on a machine with systemd as pid 1: 10 minutes, not in check
	@sh test/deps.sh debootstrap lintian
	lintian --allow-root --fail-on error dist/*.deb
	$(GO) test -count=1 -timeout 45m -v ./test/e2e-systemd

fuzz: ## every fuzz target for FUZZTIME each
	@grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do \
		for target in $$(grep -oE '^func Fuzz[A-Za-z0-9]*' "$$file" | cut -c6-); do \
			echo "== $$target in $$(dirname "$$file")"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" || exit; \
		done; \
	done

bench: deps build ## figures beside the incumbent's, for docs/performance.md
	$(GO) run ./test/bench

install: build ## into DESTDIR, below PREFIX
	install -D -m 755 bin/vnetd $(DESTDIR)$(PREFIX)/sbin/vnetd
	install -D -m 755 bin/vnetctl $(DESTDIR)$(PREFIX)/bin/vnetctl
	install -D -m 755 bin/vnet-bridge-helper $(DESTDIR)$(PREFIX)/libexec/vnetd/vnet-bridge-helper
	install -D -m 644 configs/vnetd.toml $(DESTDIR)$(SYSCONFDIR)/vnetd/vnetd.toml
	install -D -m 644 configs/grafana-dashboard.json $(DESTDIR)$(PREFIX)/share/vnetd/grafana-dashboard.json
	install -D -m 644 configs/iptables-legacy.conf $(DESTDIR)$(PREFIX)/share/vnetd/iptables-legacy.conf
	install -D -m 644 configs/default.xml $(DESTDIR)$(PREFIX)/share/vnetd/networks/default.xml
	install -D -m 644 configs/org.vnetd1.conf $(DESTDIR)$(PREFIX)/share/dbus-1/system.d/org.vnetd1.conf
	install -D -m 644 configs/vnetd-service.rules $(DESTDIR)$(PREFIX)/share/polkit-1/rules.d/vnetd-service.rules
	install -D -m 644 configs/vnetd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/vnetd.conf
	install -D -m 644 configs/vnetd.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/vnetd.conf
	install -D -m 644 configs/vnetd.catalog $(DESTDIR)$(PREFIX)/lib/systemd/catalog/vnetd.catalog
	install -D -m 644 configs/vnetd.modules-load $(DESTDIR)$(PREFIX)/lib/modules-load.d/vnetd.conf
	install -D -m 644 configs/vnetd.sysctl $(DESTDIR)$(PREFIX)/lib/sysctl.d/50-vnetd.conf
	install -D -m 644 configs/org.vnetd1.policy $(DESTDIR)$(PREFIX)/share/polkit-1/actions/org.vnetd1.policy
	install -D -m 644 configs/org.vnetd1.rules $(DESTDIR)$(PREFIX)/share/polkit-1/rules.d/50-org.vnetd1.rules
	for unit in vnetd.service vnet-port@.service vnetd-libvirt.socket vnetd-libvirt-ro.socket vnetd-mirror-libvirt.service; do \
		install -D -m 644 systemd/$$unit $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit || exit; \
	done
	install -d $(DESTDIR)$(PREFIX)/share/man/man5
	awk -f docs/man/vnetd.toml.5.awk configs/vnetd.toml >$(DESTDIR)$(PREFIX)/share/man/man5/vnetd.toml.5
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	bin/vnetctl completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/vnetctl
	bin/vnetctl completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/vendor-completions/_vnetctl
	bin/vnetctl completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/vnetctl.fish
	for page in docs/man/*.[1-8]; do \
		install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/} || exit; \
	done

deb: $(TOOLS)/nfpm ## the Debian packages vnetd and vnetd-qemu, into dist/
	rm -rf dist
	$(MAKE) --no-print-directory install DESTDIR=$(CURDIR)/dist/root/vnetd PREFIX=/usr SYSCONFDIR=/etc
	NFPM=$(TOOLS)/nfpm GO=$(GO) sh packaging/deb.sh

$(TOOLS)/nfpm:
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) $(GO) install $(NFPM)

clean: ## remove what was built, keep what was downloaded
	rm -rf bin dist
