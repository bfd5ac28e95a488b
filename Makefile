# Two commands for a person in a hurry: `make demo` and `make test`. The rest is for those who change the code.
CARGO ?= cargo
TESTS ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
IMAGE ?= ghcr.io/carrick-dev/carrick:$(VERSION)

.PHONY: demo test e2e check generate image fuzz bench

demo: ## builds Carrick and runs the recipe with everything embedded
	$(CARGO) run --locked --release -- demo

test: ## all tests that need nothing but this machine
	$(CARGO) test --locked --all-targets $(TESTS)

e2e: ## foreign WebSocket peers, a browser, and a real cluster where there is one
	tests/e2e/run

check: ## what a change must pass before it is proposed
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(MAKE) test

generate: ## the files that come from commands; tests say when they are stale
	$(CARGO) run --locked -- crd > target/wsroutes.yaml && mv target/wsroutes.yaml crds/wsroutes.yaml
	$(CARGO) run --locked -- crd --reference > target/wsroute.md && mv target/wsroute.md docs/wsroute.md
	UPDATE_GOLDEN=1 $(CARGO) test --locked --test it golden
	packaging/generate

image: ## the image as an archive, target/image/carrick.tar: for docker load, podman load, ctr images import (needs no engine)
	packaging/image target/image/carrick.tar $(IMAGE) $$(packaging/build)

fuzz: ## every fuzz target for a short while (needs a nightly toolchain)
	fuzz/run $(SECONDS_EACH)

bench: ## what decisions on the data path cost, and storms of handshakes
	$(CARGO) bench --locked
