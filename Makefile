# Every target makes its own environment. Override: make test PYTHON=python3.12 VENV=/tmp/venv

PYTHON ?= python3
VENV ?= .venv
CC ?= cc
ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
ENVIRONMENT := $(VENV)/environment.stamp
BUILT := $(VENV)/built.stamp
BENCH := $(VENV)/bench.stamp
PEERS := $(VENV)/peers.stamp
WHEELS := $(VENV)/wheels.stamp
SOURCES := setup.py pyproject.toml $(wildcard bpcore/*.pyx bpcore/binding/*.pxi bpcore/include/*.h csrc/*.[ch] csrc/*.inc csrc/kernels/*)
C_FILES := $(wildcard csrc/*.c csrc/kernels/*.c)
C_LINT := -std=c11 -D_GNU_SOURCE -Wall -Wextra -Wpedantic -Werror -fsyntax-only -Icsrc

.PHONY: help demo test test-peers bench bench-quick wheel wheels lint clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.* ## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-11s %s\n", $$1, $$2 }'

demo: $(BUILT) ## watch a network learn handwritten digits (ARGS="--net 64-32-10 --epochs 5")
	@$(PY) -m bpcore demo $(ARGS)

test: $(BUILT) ## prove it right (ARGS="-k gradient")
	$(PY) -m pytest --ignore=tests/peers $(ARGS)

test-peers: $(PEERS) $(BUILT) ## compare with PyTorch, JAX, scikit-learn and ONNX Runtime; pandas, polars, matplotlib, tqdm
	$(PY) -m pytest tests/peers $(ARGS)

# Adam's losses may part by a little more than the tolerance: a dash in the table, and no reason to stop
bench: $(BENCH) $(BUILT) ## measure against other libraries, write the README's tables
	$(PY) bench/bench_epoch.py
	-$(PY) bench/bench_epoch.py --optimizer adam
	-$(PY) bench/bench_epoch.py --optimizer adam --activation tanh --dtype float64
	-$(PY) bench/bench_epoch.py --set other
	$(PY) bench/bench_predict.py
	$(PY) bench/bench_memory.py
	$(PY) bench/bench_scaling.py
	$(PY) bench/bench_backward.py
	$(PY) bench/bench_subnormal.py
	$(PY) bench/bench_barrier.py
	$(PY) bench/bench_graph.py
	$(PY) bench/bench_jacobian.py
	$(PY) bench/bench_checkpoint.py
	$(PY) bench/bench_stream.py
	$(PY) bench/bench_clip.py
	$(PY) bench/bench_normalization.py
	$(PY) bench/bench_many.py
	$(PY) bench/bench_ensemble.py
	$(PY) bench/bench_sklearn.py
	$(PY) bench/bench_search.py
	$(PY) bench/bench_init.py
	$(PY) bench/bench_init.py --defaults
	$(PY) bench/bench_export_c.py
	$(PY) bench/bench_sparse.py
	$(PY) bench/bench_table.py
	$(PY) bench/bench_optimizers.py
	$(PY) bench/bench_optimizers.py --cost
	$(PY) bench/bench_optimizers.py --curves
	$(PY) bench/bench_serve.py
	$(PY) bench/report.py

bench-quick: $(BENCH) $(BUILT) ## see that the benchmarks work
	$(PY) bench/bench_epoch.py --quick
	$(PY) bench/bench_predict.py --quick
	$(PY) bench/bench_memory.py --quick
	$(PY) bench/bench_scaling.py --quick
	$(PY) bench/bench_backward.py --quick
	$(PY) bench/bench_subnormal.py --quick
	$(PY) bench/bench_barrier.py --quick
	$(PY) bench/bench_graph.py --quick
	$(PY) bench/bench_jacobian.py --quick
	$(PY) bench/bench_checkpoint.py --quick
	$(PY) bench/bench_stream.py --quick
	$(PY) bench/bench_clip.py --quick
	$(PY) bench/bench_normalization.py --quick
	$(PY) bench/bench_many.py --quick
	$(PY) bench/bench_ensemble.py --quick
	$(PY) bench/bench_sklearn.py --quick
	$(PY) bench/bench_search.py --quick
	$(PY) bench/bench_init.py --quick
	$(PY) bench/bench_export_c.py --quick
	$(PY) bench/bench_sparse.py --quick
	$(PY) bench/bench_table.py --quick
	$(PY) bench/bench_optimizers.py --quick --nets 4-16-3/16
	$(PY) bench/bench_optimizers.py --cost --quick
	$(PY) bench/bench_optimizers.py --curves --quick
	$(PY) bench/bench_serve.py --quick
	$(PY) bench/bench_versions.py --quick --before . 2-8-1/4 residual call:fit

wheel: $(ENVIRONMENT) ## build sdist and wheel into dist
	$(PY) -m build

wheels: $(WHEELS) ## build sdist and wheels for Linux, musl, Arm and macOS into dist, run those that run here
	$(PY) .ci/wheels.py $(ARGS)

lint: $(BUILT) ## ruff, mypy and the C compiler's warnings
	$(PY) -m ruff check .
	$(PY) -m mypy
	for file in $(C_FILES); do $(CC) $(C_LINT) $$file || exit 1; done

clean: ## remove the environment and all that was built
	rm -rf $(VENV) build dist *.egg-info bpcore/_core.c bpcore/*.so .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find bpcore tests bench -name __pycache__ -prune -exec rm -rf {} +

# what builds the extension, read from pyproject.toml, and what builds distributions
$(ENVIRONMENT): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) build $$($(PY) -c "import tomllib; \
	  print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'])")
	@touch $@

$(BUILT): $(ENVIRONMENT) $(SOURCES)
	$(PIP) --no-build-isolation --editable '.[test]'
	@touch $@

$(BENCH): $(BUILT)
	$(PIP) --no-build-isolation --editable '.[bench]'
	@touch $@

$(WHEELS): $(ENVIRONMENT)
	$(PIP) $$($(PY) -c "import tomllib; \
	  print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['wheels'])")
	@touch $@

$(PEERS): $(ENVIRONMENT)
	$(PIP) torch==2.13.0 "jax>=0.7" scikit-learn==1.9.1 pandas polars "pyarrow>=14.0.1" matplotlib tqdm cloudpickle \
	  schedulefree==1.4.1 onnx onnxruntime keras
	@touch $@
