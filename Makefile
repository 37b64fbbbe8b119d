# Each target builds .venv when it is missing; nothing else has to be set up.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-lowest lint build docs clean

train: .venv/ready ## train on the bundled sample and report on its test split
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process $$($(PYTHON) -c "import os; print(os.cpu_count())") examples/train.py

test: .venv/ready lint ## lint, types, all tests
	$(BIN)/pytest -n auto --dist worksteal --durations 20

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

build: .venv/ready ## wheel and source archive in dist/, tried in fresh environments: alone, and with each extra
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python tests/repository/try_wheel.py dist

docs: .venv/ready ## the pages as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # not our warning: what becomes of MkDocs in 2027

test-lowest: ## the tests on the lowest versions that pyproject.toml allows
	test -x .venv-lowest/bin/uv || ($(PYTHON) -m venv .venv-lowest && .venv-lowest/bin/pip install -q uv)
	# The last two by name: uv settles other packages first, and would pass over old ones that go together.
	VIRTUAL_ENV=$(CURDIR)/.venv-lowest .venv-lowest/bin/uv pip install --upgrade --resolution lowest-direct \
		-e ".[dev]" "datasets==4.6.*" "huggingface-hub==1.5.*"
	.venv-lowest/bin/pytest

.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf outputs dist site .venv-wheel
