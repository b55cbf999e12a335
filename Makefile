# make demo       set-up from nothing, then the main job on the embedded default
# make test       set-up from nothing, then checks and tests
# make test-slow  the tests that take longer than half a minute each
# make test-faults  every test of faults, those of several minutes too
# make check      lint, format, types, import directions
# make fix        what check can put right by itself

.PHONY: demo test test-slow test-faults check fix setup

BIN := .venv/bin

# One thread a process: the work is parallel by processes, and spinning threads slow their neighbours down.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false
# Nothing reports home.
export DO_NOT_TRACK := 1
export RAY_USAGE_STATS_ENABLED := 0
export VLLM_NO_USAGE_STATS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1

demo: setup
	$(BIN)/w2s run examples/almanac.toml

test: check
	$(BIN)/python -m pytest -m "not slow"

test-slow: setup
	@tools/postgresql.sh
	$(BIN)/python -m pytest -m slow

test-faults: setup
	@tools/postgresql.sh
	W2S_LONG_FAULTS=1 $(BIN)/python -m pytest tests/faults

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 PYRIGHT_PYTHON_GLOBAL_NODE=0 $(BIN)/pyright
	PYTHONPATH=. $(BIN)/lint-imports --no-logo

fix: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

setup:
	@tools/setup.sh
