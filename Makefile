# The ways into the house. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help up build deps test lint bench test-matrix clean
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

test-matrix: deps ## Run the tests that face PostgreSQL on 15, 17 and 18
	@scripts/test-matrix.sh $(ARGS)

clean: ## Remove what was built, and the folders of the tests
	$(CARGO) clean
	rm -rf .matrix .venv
