# The everyday commands. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz bench lint ci clean

# Brokers live in sbin, which a plain user's PATH lacks.
export PATH := $(PATH):/usr/sbin:/sbin

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what the build and the tests need (Debian 12)
	@scripts/setup

demo: ## simulated gateway, relay and brokers in one process; DEMO_ARGS="--for 15" ends it by itself
	@scripts/setup --without-brokers
	cargo run --release --locked -- demo $(DEMO_ARGS)

test: setup ## run every test, with real brokers
	cargo test --locked

fuzz: ## ten million malformed records through parser and normaliser; FUZZ_EXECUTIONS and FUZZ_SEED change that
	CCRELAY_FUZZ_EXECUTIONS=$(or $(FUZZ_EXECUTIONS),10000000) CCRELAY_FUZZ_SEED=$(or $(FUZZ_SEED),20261124) \
		cargo test --release --locked --test fuzz -- --nocapture

bench: ## how fast it is beside what the machine allows, a quarter of an hour; BENCH_ARGS=--quick takes 4 minutes
	@scripts/bench $(BENCH_ARGS)

lint: ## formatting, clippy and documentation, warnings refused
	@scripts/setup --without-brokers --with-lints
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

ci: ## all that CI does
	@.ci/run

clean: ## remove what was built and fetched
	cargo clean
	rm -rf .cache
