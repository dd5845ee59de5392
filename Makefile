# One .venv serves every target. `make run` and `make test` install what they need first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
.PHONY: run test test-slow test-gpu check bench dev wheel study-camvid study-squeezenas study-fasterseg study-precision plugins gpu clean

run: dev
	$(BIN)/edgesmith run street --out runs/street

# A process a core, each with one thread.
test: dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m "not slow and not gpu"

test-gpu: dev
	$(BIN)/pytest -m gpu

test-slow: dev
	$(BIN)/pytest -m "slow and not gpu"

check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python bench/tables.py --check

bench: dev
	$(BIN)/python bench/enlarge.py
	$(BIN)/python bench/frame_loop.py --json docs/measurements/frame_loop.json
	$(BIN)/python bench/operators.py --json docs/measurements/operators.json
	$(BIN)/python bench/train_step.py --json docs/measurements/train_step.json
	$(BIN)/python bench/supernet_step.py --json docs/measurements/supernet_step.json
	$(BIN)/python bench/fasterseg_step.py --lean --json docs/measurements/fasterseg_step.json
	$(BIN)/python bench/tables.py

# A study stops where a job reaches its limit of minutes: called again it goes on. The tables show what is done by then.
study-camvid study-squeezenas study-fasterseg study-precision: study-%: dev
	$(BIN)/python bench/study_$*.py; code=$$?; $(BIN)/python bench/tables.py && exit $$code

# Compiles the CUDA kernels for Orin and, where the toolkit is CUDA 13, for Hopper and Thor; with TENSORRT_INCLUDE also TensorRT's library.
plugins:
	cmake -S deploy/plugins -B build/plugins
	cmake --build build/plugins

# What the kernels take of each architecture, and, where there is a GPU, that they are right and how fast they are.
gpu: dev
	$(BIN)/python bench/plugins_resources.py docs/measurements/plugins.json
	$(BIN)/python bench/plugins.py --json docs/measurements/plugins.json

dev: .venv/installed .dev/edgesmith

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'make needs Python 3.11 or newer: make PYTHON=python3.11')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# The package is the repository's root: this link lets mypy and pyright see it under its import name.
.dev/edgesmith:
	mkdir -p .dev
	ln -sfn .. .dev/edgesmith

wheel: dev
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .

clean:
	rm -rf .venv .dev build dist *.egg-info
