# Entry points; the work is done by cargo, the programs under tests/ and tests/run.

CLUSTER ?=
KUBECTL ?= $(firstword $(wildcard $(or $(VICINO_CACHE),$(HOME)/.cache/vicino)/k8s-*/kubectl) kubectl)

.DEFAULT_GOAL := help
.PHONY: help demo demo-down test lint generate images build-installer bench sim fuzz deny clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Boot a three-node Kubernetes, mesh a sample application, send calls (CLUSTER=current: use KUBECONFIG's cluster)
	CLUSTER=$(CLUSTER) cargo run --locked -p vicino-e2e --bin vicino-demo

demo-down: ## End what `make demo` started and remove what it left
	CLUSTER=$(CLUSTER) cargo run --locked -p vicino-e2e --bin vicino-demo -- down

test: ## Run every check, in named and timed stages (tests/run STAGE… runs some)
	tests/run

lint: ## Check formatting and lints
	tests/run format lints

generate: ## Write config/crd from the Rust types
	cargo run --locked -p vicino-crds --example generate -- config/crd

images: ## Build the container images with buildah and print where they are
	cargo run --locked -p vicino-cluster -- prepare
	cargo run --locked -p vicino-cluster -- images

build-installer: ## Write dist/install.yaml: config/default in one file
	mkdir -p dist
	$(KUBECTL) kustomize config/default > dist/install.yaml.part
	mv dist/install.yaml.part dist/install.yaml

bench: ## Measure the cost of two hops, in the clear and with mutual TLS, beside HAProxy, Envoy and nginx
	cargo run --locked --release -p vicino-bench

sim: ## Simulate balancing with the product's code, beside client-side algorithms and one central queue
	cargo run --locked --release -p vicino-sim -- --output tests/sim/results

fuzz: ## Fuzz what reads bytes from outside, for a minute each (FUZZ_SECONDS=60)
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) tests/run fuzz

deny: ## Check licences, banned and duplicate crates, sources, advisories
	tests/run deny

clean: ## Remove what was built (the cache of Kubernetes binaries stays)
	cargo clean
	rm -rf dist
