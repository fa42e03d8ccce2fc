# What a developer types; `make` lists it.

PYTHON ?= python3
TESTS ?= tests
PYTEST_ARGS ?=
BENCH ?=

BIN := .venv/bin
SCHEMA := cos_runtime/caffe/schema
PULUMI := .pulumi-cli/bin/pulumi
PULUMI_SOURCE := tests/infra/engine/cli
PROTOC := $(BIN)/python -m grpc_tools.protoc -I.
# Asked in the recipe that needs it: most targets need no Java.
WITH_JAVA := JAVA_HOME="$$($(BIN)/python -m bootstrap.java)" && export JAVA_HOME &&
# Tests start so many JVMs that it pays to have them start quickly.
WITH_QUICK_JAVA := $(WITH_JAVA) JAVA_HOME="$$($(BIN)/python -m tests.fixtures.quick_java)" &&

.DEFAULT_GOAL := help
.PHONY: help venv java pulumi plan demo test test-long test-long-infra test-long-bootstrap test-long-others lab lab-shell bench lint proto-check format proto lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/.stamp ## make .venv as requirements.lock says (PYTHON= names another Python)

# The stamp is older than a changed lock, so that whoever pulls gets the new packages with the next target.
.venv/.stamp: requirements.lock pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# uv hard-links what its cache holds: a second clone costs seconds and no disk. pip brings the one that the lock names.
$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
		found=$$($(PYTHON) -c 'import platform; print("Python " + platform.python_version())' 2> /dev/null || echo missing); \
		echo "cos needs Python 3.11 or newer, and $(PYTHON) is $$found: name another, as in \`make PYTHON=python3.12 venv\`." >&2; \
		exit 1; \
	}
	$(PYTHON) -m venv --clear .venv
	@awk '/^[a-z]/ {wanted = /^uv==/} wanted' requirements.lock > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement .venv/uv.txt

java: venv ## find a Java 17 or newer, or fetch one into .java
	@$(WITH_JAVA) echo "JAVA_HOME=$$JAVA_HOME"

pulumi: ## find Pulumi's command line on PATH, or build one into .pulumi-cli (needs Go, some minutes once)
	@command -v pulumi || { $(MAKE) --no-print-directory $(PULUMI) && echo $(PULUMI); }

$(PULUMI): $(PULUMI_SOURCE)/go.mod $(PULUMI_SOURCE)/go.sum
	@go=$$(command -v go || command -v /usr/local/go/bin/go) || { \
		echo "There is no pulumi on PATH, and no Go to build it with: install one of them, as their sites say." >&2; \
		exit 1; \
	}; \
	target=$$PWD/$@ && cd $(PULUMI_SOURCE) && version=$$($$go list -m -f '{{.Version}}' github.com/pulumi/pulumi/pkg/v3) && \
	echo "building pulumi $$version" && \
	$$go build -buildvcs=false -trimpath -o "$$target" \
		-ldflags "-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=$$version" \
		github.com/pulumi/pulumi/pkg/v3/cmd/pulumi

plan: venv ## show what a cluster is made of, its network and its price, without credentials (PRESET= names it)
	@$(BIN)/python -m infra.plan $(PRESET)

demo: venv ## train, test and read features of a small net on a local Spark
	@$(WITH_JAVA) $(BIN)/python examples/demo.py

test: venv ## run the tests (TESTS= and PYTEST_ARGS= choose)
	@$(WITH_QUICK_JAVA) $(BIN)/python -m pytest -m "not long and not lab" $(PYTEST_ARGS) $(TESTS)

# The longest first. Pulumi's engine, its provider and the program wait for one another: they leave a core to Spark.
test-long: test-long-others test-long-infra test-long-bootstrap ## run the tests that take more than half a minute each (sooner by `make -j2`)

test-long-infra: venv ## run those of the infrastructure
	@$(BIN)/python -m pytest -m "long and not lab" $(PYTEST_ARGS) tests/infra

test-long-bootstrap: venv ## run those of the launcher
	@$(WITH_QUICK_JAVA) $(BIN)/python -m pytest -m "long and not lab" $(PYTEST_ARGS) tests/bootstrap

test-long-others: venv ## run the others
	@$(WITH_QUICK_JAVA) $(BIN)/python -m pytest -m "long and not lab" $(PYTEST_ARGS) --ignore tests/infra --ignore tests/bootstrap tests

lab: venv pulumi ## run the tests of whole clusters: AWS made of network namespaces (needs root)
	@$(WITH_JAVA) $(BIN)/python -m pytest -m lab $(PYTEST_ARGS) $(TESTS)

lab-shell: venv pulumi ## a shell in such a lab, to try `cos up` by hand at no cost (needs root)
	@$(WITH_JAVA) $(BIN)/python -m tests.lab

bench: venv ## measure speed beside what one would use instead, and write docs/benchmarks.md (BENCH= chooses)
	@$(WITH_JAVA) $(BIN)/python -m benchmarks $(BENCH) --write

lint: venv proto-check ## check style, types, the borders between the rooms and the generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

proto-check: venv ## check that the generated protobuf code is what protoc makes of the schema
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PROTOC) --python_out="$$fresh" --pyi_out="$$fresh" $(SCHEMA)/*.proto && \
	for file in $(SCHEMA)/*_pb2.py* $$(cd "$$fresh" && echo $(SCHEMA)/*); do \
		cmp -s "$$file" "$$fresh/$$file" || { echo "$$file is not what protoc makes: run \`make proto\`." >&2; exit 1; }; \
	done

format: venv ## mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

proto: venv ## generate the protobuf code anew
	$(PROTOC) --python_out=. --pyi_out=. $(SCHEMA)/*.proto

lock: | $(BIN)/uv ## write requirements.lock anew for pyproject.toml (versions stay where they can)
	$(BIN)/uv pip compile pyproject.toml --quiet --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --output-file requirements.lock

clean: ## remove caches and what was built (.venv and .java stay)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .grimp_cache spark-warehouse metastore_db
	find . -path ./.venv -prune -o -path ./.java -prune -o -name __pycache__ -exec rm -rf {} +
