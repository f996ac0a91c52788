# Everything a visitor or a machine does here, on a bare Python >= 3.11.
#
# Rule 1  Every path is relative and nothing relies on a console script: a script's first line holds the absolute path of its
#         environment and breaks when that has a space in it or moves.  `.venv/bin/python -m ...` does neither.
# Rule 2  The environment is exactly requirements.lock, hash by hash.  The package itself is not built or installed: one line in
#         a .pth file, relative to the environment, puts this checkout on the path of every child process.
# Rule 3  An environment without a stamp is a half-made one and is made anew.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.stamp
BENCH_VENV := .venv-bench
BENCH_PY := $(BENCH_VENV)/bin/python
BENCH_STAMP := $(BENCH_VENV)/.stamp
# Bench scripts that answer no question of their own.
BENCH_PARTS := common data embed_wordnet engines make_sample
BENCHES = $(filter-out $(BENCH_PARTS:%=bench/%.py),$(sort $(wildcard bench/*.py)))

FUZZED := encoding operations frame snapshot head proofs

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test unit lint format vectors bench faults platforms platforms-all golden fuzz audit mutations sample lock clean

help:
	@echo 'make demo     the main job on real sentence vectors: ingest, search, crash, recover, replay, compare roots'
	@echo 'make test     everything that must hold: lint, types, spec vectors, tests'
	@echo 'make unit     the tests alone          (make unit ARGS="tests/test_house.py -v")'
	@echo 'make lint     ruff and mypy alone'
	@echo 'make format   let ruff rewrite the layout'
	@echo 'make vectors  write spec/vectors/ anew from spec/reference.py'
	@echo 'make bench    measure, against the peers that install here; results go to bench/results/   (make bench BENCHES=bench/ingest.py)'
	@echo 'make faults   the long fault campaigns; bench/results/faults.md says what they saw   (make faults ARGS="--only 8,9")'
	@echo 'make platforms  one digest on 13 platforms, most of them emulated; bench/results/platforms.md   (ARGS="--only sid-riscv64")'
	@echo 'make platforms-all  the same on all 29'
	@echo 'make golden   write detmem/data/golden.json anew, if package and twin live the same life'
	@echo 'make fuzz     atheris on every decoder of stored bytes, a minute each   (make fuzz ARGS="--seconds 600")'
	@echo 'make audit    a million changed proofs, of which none may be accepted; bench/results/audit.md'
	@echo 'make mutations  a million changed proofs and 20,000 changed stores for the standalone verifier; bench/results/mutations.md'
	@echo 'make sample   draw detmem/data/wordnet-sample.npz anew   (make sample SOURCE=path/to/wordnet-minilm.npz)'
	@echo 'make lock     resolve requirements.lock anew'
	@echo 'make clean    remove everything that the lines above can make again'
	@echo 'The environment in $(VENV) is made on first use with PYTHON=$(PYTHON).'

$(STAMP): pyproject.toml requirements.lock
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("detmem needs Python 3.11 or newer, found %d.%d at %s: say make PYTHON=/path/to/python3" % (v[0], v[1], sys.executable))'
	@echo 'making the environment in $(VENV)'
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(PY) -c 'import os, pathlib, sysconfig; site = sysconfig.get_path("purelib"); pathlib.Path(site, "detmem-checkout.pth").write_text(os.path.relpath(".", site) + "\n")'
	@touch $(STAMP)

# The peers stand in an environment of their own, so that nothing they bring can help or hurt a test.  One that does not
# install here is passed over: the results say which were absent.
$(BENCH_STAMP): pyproject.toml requirements.lock
	@echo 'making the environment in $(BENCH_VENV)'
	@"$(PYTHON)" -m venv --clear $(BENCH_VENV)
	@$(BENCH_PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BENCH_PY) -c 'import os, pathlib, sysconfig; site = sysconfig.get_path("purelib"); pathlib.Path(site, "detmem-checkout.pth").write_text(os.path.relpath(".", site) + "\n")'
	@set -e; for peer in $$($(BENCH_PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["bench"])'); do \
		$(BENCH_PY) -m pip install --quiet --disable-pip-version-check "$$peer" || echo "PEER ABSENT: $$peer did not install"; done
	@touch $(BENCH_STAMP)

demo: $(STAMP)
	@$(PY) -m detmem demo

test: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --strict detmem
	$(PY) spec/generate.py --check
	$(PY) -m pytest -n auto --dist worksteal

unit: $(STAMP)
	$(PY) -m pytest $(ARGS)

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --strict detmem

format: $(STAMP)
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

vectors: $(STAMP)
	$(PY) spec/generate.py

# Without OPENBLAS_*: a machine that sets them for old builds of OpenBLAS would slow the peer that uses a current one.
# Left to themselves, threads of a BLAS or of OpenMP spin for up to a tenth of a second after their work, on the core that
# the next side of a contest needs.
QUIET := OPENBLAS_THREAD_TIMEOUT=20 OMP_WAIT_POLICY=PASSIVE

bench: $(BENCH_STAMP)
	@set -e; for script in $(BENCHES); do echo "== $$script"; env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(QUIET) $(BENCH_PY) "$$script" $(ARGS); done

faults: $(STAMP)
	$(PY) tests/faults/campaign.py $(ARGS)

# Foreign systems are unpacked to DETMEM_PLATFORMS (build/platforms when unset) and kept there.
platforms: $(STAMP)
	$(PY) tests/platforms/platforms.py $(ARGS)

platforms-all: $(STAMP)
	$(PY) tests/platforms/platforms.py --all $(ARGS)

golden: $(STAMP)
	$(PY) tests/platforms/scenario.py --renew

# atheris stands beside the environment, which stays what requirements.lock says.
fuzz: $(STAMP)
	@test -d build/fuzz || $(PY) -m pip install --quiet --disable-pip-version-check --target build/fuzz \
		$$($(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["fuzz"])')
	@set -e; for target in $(FUZZED); do PYTHONPATH=build/fuzz $(PY) -m tests.fuzz.fuzz $$target $(ARGS); done

audit: $(STAMP)
	$(PY) tests/proof/forging.py $(ARGS)

mutations: $(STAMP)
	$(PY) -m tests.mutations $(ARGS)

sample: $(STAMP)
	$(PY) bench/make_sample.py "$(SOURCE)"

# One resolution for every platform and Python that pyproject.toml admits, with the hash of every file it may need.
lock: $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade --no-annotate \
		--custom-compile-command 'make lock' --group dev pyproject.toml --output-file requirements.lock

clean:
	rm -rf $(VENV) $(BENCH_VENV) .venv-embed dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find detmem spec tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
