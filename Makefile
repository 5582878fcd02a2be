# Modelyard's commands. All of them work on a machine that has only Python 3.11+, Go 1.26+, make, git and apt, as root.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# More than cores: the cluster's tests mostly wait.
TEST_WORKERS ?= 3
IMAGE ?= localhost/modelyard/loader:dev
export UV_SYSTEM_CERTS = 1
# An own cluster is only ever named on the command line (make demo KUBECONFIG=...): what the shell exports is not taken.
ifeq ($(origin KUBECONFIG),environment)
unexport KUBECONFIG
endif

.PHONY: help setup demo demo-down test test-faults check format bench-flow bench-preload bench-modelcar bench-scale loader-image embedder-image wheels lock screenshot

help: ## Show the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

setup: .venv/.done ## Make the virtual environment from the pinned requirements

.venv/.done: requirements/all.txt requirements/bootstrap.txt
	@dpkg -s python3-venv >/dev/null 2>&1 || $(PYTHON) -c 'import ensurepip' 2>/dev/null || apt-get install -y -qq --no-install-recommends python3-venv
	@echo "setup: installing the pinned Python packages into .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -q --disable-pip-version-check -r requirements/bootstrap.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements/all.txt
	@touch $@

demo: setup wheels ## Preload a real model onto a claim of a real cluster (KUBECONFIG=... takes your own; MODELCAR=1: served by KServe too)
	@$(BIN)/python -m deployments.demo up

demo-down: setup ## Stop everything that the demo started (PURGE=1 forgets its data too)
	@$(BIN)/python -m deployments.demo down $(if $(PURGE),--purge)

test: setup wheels ## All tests but the long fault table, on a real cluster, S3 server and Prefect server
	@$(BIN)/python -m devcluster build --with kserve
	@$(BIN)/pytest -m "not faults" -n $(TEST_WORKERS) --dist loadfile $(ARGS)

test-faults: setup wheels ## The whole fault table
	@$(BIN)/python -m devcluster build --with kserve
	@$(BIN)/pytest -m faults -n $(TEST_WORKERS) --dist loadfile $(ARGS)

check: setup ## Format, lint, types, layers, dead links
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy modelyard flows blocks deployments devcluster benchmarks tests tools
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.links README.md ARCHITECTURE.md CHANGELOG.md devcluster/README.md

format: setup ## Format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench-flow: setup ## Where the seconds of the demo's last preload went
	@$(BIN)/python -m benchmarks.flow_overhead

bench-preload: setup ## The loader beside s5cmd, boto3 and rclone
	@command -v rclone >/dev/null || apt-get install -y -qq --no-install-recommends rclone
	@$(BIN)/python -m benchmarks.preload $(ARGS)

bench-modelcar: setup ## The modelcar builder beside olot and skopeo, buildah, and crane (ARGS="--gib 0.25 --rounds 1": a quick try)
	@for tool in buildah skopeo; do command -v $$tool >/dev/null || apt-get install -y -qq --no-install-recommends $$tool; done
	@$(BIN)/python -m benchmarks.modelcar $(ARGS)

bench-scale: setup ## The loader at 100,000 objects (ARGS="--huge-gb 300": and at one object larger than the disk)
	@command -v mkfs.btrfs >/dev/null || apt-get install -y -qq --no-install-recommends btrfs-progs
	@$(BIN)/python -m benchmarks.scale $(ARGS)

wheels: deployments/images/loader/wheels/.done

deployments/images/loader/wheels/.done: requirements/loader.txt | setup
	@rm -rf $(@D) && mkdir -p $(@D)
	@$(BIN)/pip download -q --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 --require-hashes -r requirements/loader.txt -d $(@D)
	@touch $@

# The first tool that works here: a docker client may be there without its daemon. BASE=... names a Python image in your own registry.
define build_image
tool=$$(for each in docker podman buildah; do "$$each" info >/dev/null 2>&1 && echo "$$each" && break; done); \
	[ "$$tool" ] || { echo "$@: needs docker, podman or buildah, able to run" >&2; exit 2; }; \
	"$$tool" build $(if $(BASE),--build-arg BASE=$(BASE))
endef

loader-image: wheels ## Build the loader's image for your registry (IMAGE=registry.example/modelyard/loader:TAG)
	@$(build_image) -f deployments/images/loader/Dockerfile -t $(IMAGE) .

embedder-image: setup ## Build the inference server for sentence models for your registry (IMAGE=registry.example/modelyard/embedder:TAG)
	@$(BIN)/pip download -q --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 --require-hashes \
		-r deployments/images/embedder/requirements.txt -d deployments/images/embedder/wheels
	@$(build_image) -t $(IMAGE) deployments/images/embedder

lock: setup ## Pin the newest packages that pyproject.toml allows
	@$(BIN)/uv pip compile -q --upgrade pyproject.toml --all-extras --generate-hashes --universal --python-version 3.11 --no-header --no-annotate -o requirements/all.txt
	@$(BIN)/uv pip compile -q pyproject.toml --generate-hashes --python-version 3.11 --no-header --no-annotate -c requirements/all.txt -o requirements/loader.txt

screenshot: setup ## Take the README's pictures of the demo's last run
	@command -v chromium >/dev/null || apt-get install -y -qq --no-install-recommends chromium
	@$(BIN)/python -m tools.screenshot docs/images
