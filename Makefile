# What a contributor runs. All state is in $(VENV) and build/; `make clean` forgets both.
# Tests never see src/: a wheel is built and installed, and that is what they import.
# A build with other NTMEM_* switches (see setup.py) wants its own VENV=.

VENV ?= .venv
TESTS ?= tests
JOBS ?= 2
REPLAY_ARGS ?=
BENCH_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
SOURCES := $(shell find src -mindepth 1 \( -name "*.egg-info" -o -name __pycache__ \) -prune -o -print)

.DEFAULT_GOAL := help
.PHONY: help replay test bench lint asan tsan sdist wheel clean
.NOTPARALLEL:  # two wheels at once would share build/

help:  ## list the targets
	@sed -n 's/^\([a-z ]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

replay: $(VENV)/installed  ## replay the shipped market data (REPLAY_ARGS=)
	@$(BIN)/ntmem replay $(REPLAY_ARGS)

test: $(VENV)/testable  ## run the tests against the installed wheel (TESTS=, JOBS=)
	@$(BIN)/pytest -n $(JOBS) $(TESTS)

bench: $(VENV)/testable  ## run the benchmarks (BENCH_ARGS=)
	@$(BIN)/pytest benches $(BENCH_ARGS)

lint: $(VENV)/testable  ## style and types
	@$(BIN)/pytest -q tests/meta/test_types.py tests/meta/test_layers.py tests/meta/test_stubs.py

# An instrumented module needs its run-time library first in the process, and libstdc++ before
# the first C++ throw. Python's own allocator would hide small overflows: PYTHONMALLOC. Reports
# are written past Python and lost unless only Python's streams are captured: --capture=sys.
libraries = $(foreach name,$(1) libstdc++.so.6,$(shell gcc -print-file-name=$(name)))

asan:  ## native tests under the address and undefined behaviour sanitizers
	@NTMEM_SANITIZE=address,undefined $(MAKE) --no-print-directory $(VENV)-asan/testable VENV=$(VENV)-asan
	@LD_PRELOAD="$(call libraries,libasan.so)" PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
		UBSAN_OPTIONS=print_stacktrace=1 $(VENV)-asan/bin/pytest --capture=sys tests/unit

tsan:  ## native tests under the thread sanitizer (CPython 3.11: later ones report falsely)
	@NTMEM_SANITIZE=thread $(MAKE) --no-print-directory $(VENV)-tsan/testable VENV=$(VENV)-tsan
	@LD_PRELOAD="$(call libraries,libtsan.so)" TSAN_OPTIONS=exitcode=66 \
		$(VENV)-tsan/bin/pytest --capture=sys tests/unit

sdist wheel: $(VENV)/buildable  ## into dist/
	@rm -rf build src/ntmem.egg-info
	@$(BIN)/python -m build --$@ --outdir dist

clean:  ## remove everything that was built here
	rm -rf build dist src/ntmem.egg-info $(VENV) $(VENV)-asan $(VENV)-tsan

# --- files that say how far $(VENV) is -----------------------------------------------------------

# The first interpreter that is new enough and complete: Debian splits off venv, ensurepip and Python.h.
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
COMPLETE := import ensurepip, os, sys, sysconfig, venv; \
	header = os.path.join(sysconfig.get_path("include"), "Python.h"); \
	sys.exit(sys.version_info < (3, 11) or not os.path.exists(header))

$(VENV)/made:
	@for python in $(PYTHONS); do \
		if command -v gcc >/dev/null && $$python -c '$(COMPLETE)' 2>/dev/null; then \
			$$python -m venv $(VENV) && touch $@; exit; \
		fi; \
	done; \
	echo "ntmem needs gcc and Python 3.11 or later with venv and headers; tried: $(PYTHONS)." >&2; \
	echo "On Debian: apt-get install gcc python3 python3-venv python3-dev" >&2; exit 1

# Leftovers in build/ would find their way into the wheel.
$(VENV)/built: $(VENV)/made pyproject.toml setup.py $(SOURCES)
	@echo "building the wheel ..."
	@rm -rf build src/ntmem.egg-info $(VENV)/wheel
	@$(PIP) wheel --no-deps --wheel-dir $(VENV)/wheel .
	@touch $@

$(VENV)/installed: $(VENV)/built
	@$(PIP) install --force-reinstall --no-deps $(VENV)/wheel/*.whl
	@$(PIP) install "$$(echo $(VENV)/wheel/*.whl)[cli]"
	@touch $@

$(VENV)/testable: $(VENV)/installed
	@$(PIP) install "$$(echo $(VENV)/wheel/*.whl)[test]"
	@touch $@

$(VENV)/buildable: $(VENV)/made
	@$(PIP) install build
	@touch $@
