# The ways into the house. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help up build deps test lint bench test-matrix test-moves test-aws test-config clean
CARGO ?= cargo
INSULA := $(or $(CARGO_TARGET_DIR),target)/release/insula

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

up: build ## Install what is missing, build, and run Insula with the shop demo (ARGS="--port-base 8400")
	@scripts/up.sh $(INSULA) up --demo shop $(ARGS)

build: ## Build the binary for release
	@scripts/deps.sh run
	$(CARGO) build --release --locked --package insula

deps: ## Install what is missing to build and to test
	@scripts/deps.sh test

test: lint ## Run every check and every test
	$(CARGO) xtask test

lint: deps ## Run every check but the tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings
	$(CARGO) xtask tidy
	$(CARGO) xtask generate --check
	$(CARGO) deny --log-level warn check licenses bans sources

bench: ## Run the benchmarks and print what they measure
	@scripts/deps.sh bench
	$(CARGO) bench --locked --package insula --bench '*' -- $(ARGS)
	$(CARGO) bench --locked --package insula-pg-proxy --bench front
	$(CARGO) bench --locked --package insula-config --bench reads

test-matrix: deps ## Run the tests that face PostgreSQL on 15, 17 and 18
	@scripts/test-matrix.sh $(ARGS)

test-moves: deps ## Run moves between all models and regions, and all crashes of them (docs/TESTING.md)
	$(CARGO) nextest run --locked --package insula --package insula-tenant-cluster --run-ignored all --no-fail-fast -E 'binary(moves) | binary(move_crashes) | binary(moving_stream_failures)'

test-aws: ## Build the backends on AWS and test them with emulators (docs/TESTING.md)
	@scripts/deps.sh aws
	$(CARGO) clippy --locked --package insula --package insula-config-service --package insula-config-aws --features aws --all-targets -- --deny warnings
	$(CARGO) nextest run --locked --package insula-config-aws --features aws --no-fail-fast
	$(CARGO) nextest run --locked --package insula-config-service --features aws --no-fail-fast -E 'test(dynamodb)'

test-config: deps ## Kill the configuration service and its store under a thousand watchers
	$(CARGO) nextest run --locked --package insula --run-ignored all --no-fail-fast -E 'binary(config_faults)'

clean: ## Remove what was built, and the folders of the tests
	$(CARGO) clean
	rm -rf .matrix .venv .venv-aws
