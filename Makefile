# Targets: see `make help`. `make demo` and `make check` need nothing but a
# Debian 12 with Go, and root; they install what else they need.

SHELL       := /bin/bash -o pipefail
GO          ?= go
PREFIX      ?= /usr
SYSCONFDIR  ?= /etc
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
TOOLS       := $(CURDIR)/.cache/tools
ETCD        := $(CURDIR)/.cache/etcd-new/etcd
MODULES     := $(CURDIR)/.cache/cockpit/modules
FUZZTIME    ?= 30s
BENCHTIME   ?= 1s
CHAOSTIME   ?= 10m
SEED        ?= 0

export GOTOOLCHAIN ?= local
export CGO_ENABLED ?= 0
# All targets compile alike, so that what one has compiled the next has. grpcnotrace leaves out pages
# of grpc that nobody serves: with them come templates, and with these the linker keeps each method
# of every type, 3.7 MB of vnetd.
export GOFLAGS ?= -trimpath -tags=grpcnotrace
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
.PHONY: help build demo demo-span check deps lint test e2e e2e-rates e2e-span e2e-span-new e2e-systemd fuzz chaos bench install deb rpm arch cockpit install-cockpit deb-cockpit e2e-cockpit e2e-cockpit-trixie clean

help: ## say what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## compile the binaries into bin/
	$(GO) build -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/...

demo: deps build ## a NAT network from its XML to a guest that reaches the outside
	$(GO) run ./test/demo

demo-span: deps build ## three hosts with an etcd each, and a guest that moves between them; not in check
	$(GO) run ./test/demo span

check: deps ## everything that CI runs
	@start=$$SECONDS; \
	for target in lint build test e2e e2e-cockpit; do \
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
	shellcheck $$(git ls-files '*.sh' 'packaging/*inst' 'packaging/*rm' 'packaging/*.rpm-*' 'packaging/*.arch-*') .ci/run

$(TOOLS)/.installed: Makefile
	@mkdir -p $(TOOLS)
	@for tool in $(LINT_TOOLS); do GOBIN=$(TOOLS) $(GO) install $$tool || exit; done
	@touch $@

# One package more than there are processors at a time: kernel tests wait more than they work. What
# go vet finds, lint tells.
test: ## unit and kernel tests, each kernel test in namespaces of its own
	CGO_ENABLED=1 $(GO) test -race -vet=off -shuffle=on -p $$(($$(nproc) + 1)) -parallel 4 -timeout 30m $$($(GO) list ./... | grep -v '/test/e2e')
	$(GO) test -count=1 -run 'TestSimulation|CrashPoints|TestRefused' ./pkg/cluster ./pkg/store
	@$(GO) test -count=1 -v -run Libvirt ./pkg/netdef | grep -E 'libvirt-|^ok'

e2e: build ## the built binaries from outside, with a QEMU guest
	$(GO) test -count=1 -parallel $$((3 * $$(nproc))) -timeout 40m -v -skip TestRatesOnDebiansKernel ./test/e2e

e2e-rates: deps build ## what limits of bandwidth hold on Debian's kernel, on a quiet machine; not in check
	$(GO) test -count=1 -timeout 20m -v -run TestRatesOnDebiansKernel ./test/e2e

e2e-cockpit: build cockpit ## the page in a real Cockpit, pressed by a real browser
	$(GO) test -count=1 -timeout 10m -v -run TestPage ./test/e2e-cockpit

e2e-cockpit-trixie: build cockpit ## the same page in the Cockpit of Debian 13, not in check
	@sh test/deps.sh debootstrap
	@sh test/e2e-cockpit/root.sh trixie $(CURDIR)/.cache/cockpit/trixie
	COCKPIT_ROOT=$(CURDIR)/.cache/cockpit/trixie $(GO) test -count=1 -timeout 10m -v -run TestPage ./test/e2e-cockpit

e2e-span: deps build ## three hosts of a cluster, with etcd on each, while what they need fails; not in check
	$(GO) test -count=1 -p 1 -parallel 1 -timeout 30m -v ./test/e2e-span

e2e-span-new: deps build $(ETCD) ## the same with the etcd of today, built from its module; not in check
	VNETD_ETCD=$(ETCD) $(GO) test -count=1 ./pkg/cluster/etcd ./cmd/vnet-cluster
	VNETD_ETCD=$(ETCD) $(GO) test -count=1 -p 1 -parallel 1 -timeout 30m -v ./test/e2e-span

# A module of its own, for the server needs 50 modules that vnetd does not.
$(ETCD): test/etcd/go.mod test/etcd/go.sum test/etcd/main.go
	cd test/etcd && $(GO) build -trimpath -o $@ .

e2e-systemd: deb deb-cockpit ## the packages on machines with systemd as pid 1: 15 minutes, not in check
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

chaos: deps build ## clients at work while all that can break does, for CHAOSTIME; SEED=N again; not in check
	$(GO) run ./test/chaos -for $(CHAOSTIME) -seed $(SEED)

bench: deps build ## figures beside the incumbent's, for docs/benchmarks.md
	$(GO) run ./test/bench

install: build ## into DESTDIR, below PREFIX
	install -D -m 755 bin/vnetd $(DESTDIR)$(PREFIX)/sbin/vnetd
	install -D -m 755 bin/vnetctl $(DESTDIR)$(PREFIX)/bin/vnetctl
	install -D -m 755 bin/vnet-cluster $(DESTDIR)$(PREFIX)/libexec/vnetd/vnet-cluster
	install -D -m 755 bin/vnet-bgp $(DESTDIR)$(PREFIX)/libexec/vnetd/vnet-bgp
	install -D -m 755 bin/vnet-bridge-helper $(DESTDIR)$(PREFIX)/libexec/vnetd/vnet-bridge-helper
	install -D -m 644 configs/vnetd.toml $(DESTDIR)$(SYSCONFDIR)/vnetd/vnetd.toml
	install -D -m 644 configs/grafana-dashboard.json $(DESTDIR)$(PREFIX)/share/vnetd/grafana-dashboard.json
	install -D -m 644 configs/alerts.yml $(DESTDIR)$(PREFIX)/share/vnetd/alerts.yml
	install -D -m 644 configs/iptables-legacy.conf $(DESTDIR)$(PREFIX)/share/vnetd/iptables-legacy.conf
	install -d $(DESTDIR)$(PREFIX)/share/doc/vnetd/examples
	install -m 755 configs/examples/launch.sh configs/examples/launch.py $(DESTDIR)$(PREFIX)/share/doc/vnetd/examples/
	install -m 644 configs/examples/launch.go $(DESTDIR)$(PREFIX)/share/doc/vnetd/examples/launch.go
	install -D -m 644 configs/default.xml $(DESTDIR)$(PREFIX)/share/vnetd/networks/default.xml
	install -D -m 644 configs/org.vnetd1.conf $(DESTDIR)$(PREFIX)/share/dbus-1/system.d/org.vnetd1.conf
	install -D -m 644 configs/vnetd-service.rules $(DESTDIR)$(PREFIX)/share/polkit-1/rules.d/vnetd-service.rules
	install -D -m 644 configs/vnetd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/vnetd.conf
	install -D -m 644 configs/vnetd.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/vnetd.conf
	install -D -m 644 configs/vnetd.catalog $(DESTDIR)$(PREFIX)/lib/systemd/catalog/vnetd.catalog
	install -D -m 644 configs/vnetd.modules-load $(DESTDIR)$(PREFIX)/lib/modules-load.d/vnetd.conf
	install -D -m 644 configs/vnetd.udev $(DESTDIR)$(PREFIX)/lib/udev/rules.d/60-vnetd.rules
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

rpm arch: $(TOOLS)/nfpm ## packages for systems of rpm's, and for Arch Linux, into dist/; untried there
	@sh test/deps.sh rpm zstd
	rm -rf dist/root dist/*.$(if $(filter rpm,$@),rpm,pkg.tar.zst)
	$(MAKE) --no-print-directory install DESTDIR=$(CURDIR)/dist/root/vnetd PREFIX=/usr SYSCONFDIR=/etc
	NFPM=$(TOOLS)/nfpm GO=$(GO) sh packaging/elsewhere.sh $@
	VNETD_PACKAGES=$@ $(GO) test -count=1 -run TestElsewhere ./packaging

cockpit: $(MODULES)/.installed ## compile the page for Cockpit into bin/cockpit; needs Node.js and npm
	ln -sfn ../.cache/cockpit/modules/node_modules cockpit/node_modules
	cd cockpit && node_modules/.bin/tsc && node build.js

# The packages of npm that the lock file names are kept with what else was downloaded, where
# nothing that walks the tree walks them, and fetched again only when it names others.
NPM_INPUTS := cockpit/package.json cockpit/package-lock.json cockpit/.npmrc

$(MODULES)/.installed: $(NPM_INPUTS)
	@mkdir -p $(MODULES)
	@cat $(NPM_INPUTS) | cmp -s - $(MODULES)/inputs || { \
		cp $(NPM_INPUTS) $(MODULES)/ && cd $(MODULES) && npm ci --no-progress && \
		cd $(CURDIR) && cat $(NPM_INPUTS) >$(MODULES)/inputs; }
	@touch $@

install-cockpit: cockpit ## the page for Cockpit into DESTDIR, below PREFIX
	install -d $(DESTDIR)$(PREFIX)/share/cockpit/vnetd
	install -m 644 bin/cockpit/* $(DESTDIR)$(PREFIX)/share/cockpit/vnetd/

deb-cockpit: $(TOOLS)/nfpm ## the Debian package vnetd-cockpit, into dist/; needs Node.js and npm
	rm -rf dist/root dist/vnetd-cockpit_*.deb
	$(MAKE) --no-print-directory install-cockpit DESTDIR=$(CURDIR)/dist/root/vnetd-cockpit PREFIX=/usr
	NFPM=$(TOOLS)/nfpm GO=$(GO) sh packaging/deb.sh vnetd-cockpit
	$(GO) test -count=1 -run TestPackage ./test/e2e-cockpit

$(TOOLS)/nfpm:
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) $(GO) install $(NFPM)

clean: ## remove what was built, keep what was downloaded
	rm -rf bin dist
