# `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Sequences of events that `make soak` tries on the model.
MODEL_CASES ?= 20000
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := target/tools/bin/cargo-deny

.PHONY: help deps build release check test guest soak demo bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install what building and testing need and this Debian or Ubuntu lacks
	@scripts/install-deps

build: deps ## Build the binary for development
	$(CARGO) build --locked --package strait

release: deps ## Build the binary for production, and the smaller one for nodes
	$(CARGO) build --locked --release --package strait
	$(CARGO) build --locked --release --package strait --no-default-features --target-dir $(TARGET)/node

check: deps $(CARGO_DENY) ## Formatting, lints, licences and sources of dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --package strait --no-default-features -- -D warnings
	$(CARGO_DENY) --locked check bans licenses sources

test: deps ## All tests; those of the kernel need root, or user namespaces; those of its WireGuard, qemu
	scripts/test
	scripts/guest/run --cable

guest: deps ## The kernel's tests and labs on Debian's kernels 6.1 and 6.12, in guests without network
	scripts/guest/run

soak: deps ## Everything that can happen, in every combination, then random faults; takes four hours. ONLY="calico-v6 killed" for some, ONLY=model, ONLY=faults
	@status=0; \
	if [[ -z "$(ONLY)" || "$(ONLY)" == model ]]; then \
	  STRAIT_MODEL_CASES=$(MODEL_CASES) $(CARGO) test --locked --package strait-route-agent --test model || status=1; \
	fi; \
	model=$$status; \
	if [[ "$(ONLY)" != model ]]; then \
	  $(CARGO) bench --locked --profile dev --package strait --bench soak -- $(ONLY) || status=1; \
	fi; \
	if (( model )); then echo 'the model failed, see above; alone it is: make soak ONLY=model'; fi; \
	exit $$status

demo: deps ## Join two clusters on this machine, show who reaches whom, and break things
	$(CARGO) build --locked --package strait
	$(TARGET)/debug/strait lab demo

bench: release ## Measure, with the release builds
	$(TARGET)/release/strait lab bench --program $(TARGET)/node/release/strait

clean: ## Remove all that was built
	$(CARGO) clean

# Takes some minutes, once; hence not a part of `make test`.
$(CARGO_DENY):
	$(CARGO) install --quiet --locked --root target/tools cargo-deny@$(CARGO_DENY_VERSION)
