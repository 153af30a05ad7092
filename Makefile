# blkiomon: everything is built in virtual environments below this directory.
#
# Needs GNU make, Python 3.11 or later with venv, its headers and a C compiler.
# If one is missing, make says what to install.  `make help` lists the targets.

PYTHON ?= python3
TRACE  ?= tests/data/loop-multi-dc.bin
# By default all tests, by file, in one process more than there are processors,
# as some tests wait.
ARGS   ?=
TESTS   = $(or $(ARGS),-n $(shell echo $$(($$(nproc) + 1))) --dist loadfile)

# One environment per kind of build, with its stamps, wheel and Python.  A stamp
# is written only when its step has succeeded.
RELEASE  := .venv
DEBUG    := .venv-debug
COVER    := .venv-coverage
SANITIZE := .venv-sanitize
DIST     := .venv-dist

# With clang, the extensions are built for the libFuzzer of Atheris.
CLANG     = $(if $(filter fuzz fuzz-ready,$(MAKECMDGOALS)),$(shell echo 'int x;' | \
	clang -fsanitize=fuzzer-no-link,address -shared -xc - -o /dev/null 2>/dev/null && echo yes))
FUZZ      = $(if $(CLANG),.venv-fuzz/.stamp-fuzz,$(SANITIZE)/.stamp-wheel)
VENVS    := $(RELEASE) $(DEBUG) $(COVER) $(SANITIZE) .venv-fuzz

# Named after $(PYTHON), so that `make test PYTHON=python3.13` starts afresh.
BASE := .stamp-base-$(subst /,_,$(PYTHON))

# What goes into the wheel, without the temporary files of editors and tools.
SOURCES := $(sort $(shell find src -type f ! -path '*/__pycache__/*' \
	! -path '*.egg-info/*' ! -name '.*' ! -name '*~' ! -name '*.py[co]'))
SHARED  := $(sort $(shell find share -type f 2>/dev/null))
META    := bin/blkiomon pyproject.toml setup.py MANIFEST.in README.md LICENSE
INPUTS  := $(SOURCES) $(SHARED) $(wildcard $(META))
STUBS   := $(subst /,.,$(patsubst src/%.pyi,%,$(filter %.pyi,$(SOURCES))))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore
export PYTHONNOUSERSITE := 1
# These could hide the wheel from the tests, redirect pip, or change a release
# build.
unexport PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX
unexport BLKIOMON_COVERAGE BLKIOMON_DEBUG BLKIOMON_SANITIZE

.DELETE_ON_ERROR:
# Each step needs the one before: -j would speed up the compiler alone.
.NOTPARALLEL:
.SUFFIXES:
.DEFAULT_GOAL := help
.PHONY: help demo test lint lint-pages check debug sanitize coverage fuzz fuzz-ready soak profile bench guard \
	manual dist dropin everywhere lab clean FORCE

, := ,
say = @echo '==> $(1)' >&2

help: ## this list
	@echo 'Usage: make TARGET [PYTHON=python3.X] [ARGS="arguments for pytest or the benchmarks"]'
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST)

demo: $(RELEASE)/.stamp-wheel ## summarize a recorded trace
	@$(RELEASE)/bin/blkiomon $(TRACE)

test: lint check ## lint, then test the installed wheel

check: $(RELEASE)/.stamp-tools ## the tests alone
	$(call say,pytest)
	@$(RELEASE)/bin/pytest $(TESTS)

# cython-lint looks for pycodestyle on PATH.
lint: $(RELEASE)/.stamp-tools ## ruff, mypy, stubtest, biome, cython-lint and import-linter
	$(call say,ruff)
	@$(RELEASE)/bin/ruff check --quiet .
	@$(RELEASE)/bin/ruff format --quiet --check .
	$(call say,mypy)
	@$(RELEASE)/bin/mypy --no-error-summary
	@cd tests && ../$(RELEASE)/bin/mypy --strict --config-file= --no-error-summary typing_example.py
	$(call say,stubtest)
	@$(RELEASE)/bin/python tools/quiet.py $(RELEASE)/bin/stubtest --concise \
		--allowlist tools/stubtest.txt $(STUBS)
	$(call say,biome)
	@$(MAKE) --no-print-directory lint-pages
	$(call say,cython-lint)
	@PATH="$(CURDIR)/$(RELEASE)/bin:$$PATH" cython-lint src
	$(call say,import-linter)
	@$(RELEASE)/bin/python tools/quiet.py $(RELEASE)/bin/lint-imports --no-cache

# A page has the shared scripts and its own: they are linted as one script.
lint-pages:
	@mkdir -p build/pages
	@for page in report compare; do \
		(cd src/blkiomon/commands/report/page && cat data.js draw.js charts.js $$page.js) \
			>build/pages/$$page.cjs; done
	@if [ -x $(RELEASE)/bin/biome ]; then $(RELEASE)/bin/python tools/quiet.py \
		$(RELEASE)/bin/biome lint --error-on-warnings build/pages \
		src/blkiomon/commands/report/page/page.css; \
	else echo 'biome is missing, scripts are not linted: PyPI has it for x86_64 alone'; fi

debug: $(DEBUG)/.stamp-tools ## the tests on a build with all checks on
	$(call say,pytest on the debug build)
	@$(DEBUG)/bin/pytest $(TESTS)

coverage: $(COVER)/.stamp-tools ## how much of Python and Cython the tests reach, 95 % at least
	$(call say,pytest)
	@tools/coverage.sh $(COVER) $(TESTS)

# Counts only below Engine.feed: start-up takes far more instructions.
profile: $(RELEASE)/.stamp-wheel ## where the instructions of the engine go (valgrind)
	@command -v valgrind >/dev/null || { echo 'valgrind is missing: apt-get install valgrind'; exit 1; }
	@valgrind -q --tool=callgrind --toggle-collect='__pyx_pw_*_6Engine_*feed' \
		--callgrind-out-file=build/callgrind.out \
		$(RELEASE)/bin/python -m blkiomon -I 1 -b /dev/null $(TRACE)
	@callgrind_annotate build/callgrind.out | sed -n '/PROGRAM TOTALS/,$$p' | head -n 30

manual: $(RELEASE)/.stamp-wheel ## update the man pages and completions
	@$(RELEASE)/bin/python -m tools

# The libraries of the sanitizers are preloaded, as the interpreter is not
# sanitized, and so is libstdc++, which other extensions would load too late.
# Leaks are not reported, as Python keeps memory to its end (make fuzz looks for
# leaks).  Every finding ends the process with a status that tests notice.
preload = $(foreach l,asan ubsan stdc++,$(shell $(CC) -print-file-name=lib$(l).so))

sanitize: $(SANITIZE)/.stamp-tools ## the tests on a build with Address- and UndefinedBehaviorSanitizer
	$(call say,pytest on the sanitized build)
	@LD_PRELOAD='$(strip $(preload))' ASAN_OPTIONS=detect_leaks=0:strict_string_checks=1 \
		UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc $(SANITIZE)/bin/pytest $(TESTS)

# Guided by coverage if clang is installed; else the same mutations and targets
# without guidance.  See fuzz/README.md.
fuzz: $(FUZZ) ## fuzz for SECONDS=60 of processor time, TARGETS="engine merger resync decode from_bytes json"
	@$(<D)/bin/python fuzz/run.py --preload '$(strip $(preload))' --seconds $(or $(SECONDS),60) \
		$(addprefix --input ,$(INPUT)) $(TARGETS)

fuzz-ready: $(FUZZ)

# All of them take minutes; ARGS="pipe growth" runs two, ARGS=--help lists them.
bench: $(RELEASE)/.stamp-tools ## benchmark this program and the packaged one
	@$(RELEASE)/bin/python -m benchmarks $(ARGS)
ifeq ($(strip $(ARGS)),)
	@echo
	@$(MAKE) --no-print-directory guard
endif

# The wheel is built from the sdist, in an environment of its own, with what
# pyproject.toml asks for and nothing else.
dist: $(DIST)/.stamp-tools ## sdist and wheel below dist/, built and checked as they are published
	@rm -rf dist build/dist
	$(call say,sdist$(,) and a wheel from it)
	@$(DIST)/bin/pyproject-build --outdir build/dist . >build/dist.log || { tail -n 50 build/dist.log; exit 1; }
	$(call say,auditwheel)
	@PATH="$(CURDIR)/$(DIST)/bin:$$PATH" auditwheel repair --strip --wheel-dir dist build/dist/*.whl
	@mv build/dist/*.tar.gz dist
	$(call say,abi3audit)
	@$(DIST)/bin/abi3audit --strict --summary dist/*.whl
	$(call say,twine)
	@$(DIST)/bin/twine check --strict dist/*

# A prefix of its own, whose bin directory comes before /usr/bin in PATH, as that
# of pipx does.  The tests compare with the original in /usr/bin.
DROPIN := $(CURDIR)/build/dropin

dropin: dist $(RELEASE)/.stamp-tools ## test the wheel of `make dist` in place of the original in PATH
	@rm -rf $(DROPIN)
	@$(DIST)/bin/python -m venv $(DROPIN)
	@$(DROPIN)/bin/pip install --quiet dist/*.whl
	@test "$$(PATH="$(DROPIN)/bin:$$PATH" sh -c 'command -v blkiomon')" = $(DROPIN)/bin/blkiomon
	$(call say,pytest with blkiomon from PATH)
	@cd tests && PATH="$(DROPIN)/bin:$$PATH" BLKIOMON=blkiomon $(CURDIR)/$(RELEASE)/bin/pytest \
		$(or $(ARGS),test_identity.py test_run.py test_cli.py test_msgqueue.py)

# The tests that need nothing but pytest and hypothesis.
PYTHONS  ?= python3.11 python3.12 python3.13 python3.14 python3.15 python3.14t
PORTABLE := test_cli.py test_decode.py test_engine.py test_installation.py test_interval.py \
	test_limits.py test_losses.py test_reference.py test_run.py

everywhere: dist ## test the wheel of `make dist` on every CPython that is installed (PYTHONS="...")
	@tools/everywhere.sh "$(PYTHONS)" $(or $(ARGS),-q $(PORTABLE))

guard: $(RELEASE)/.stamp-tools ## compare the instructions per record with their baseline (valgrind)
	@command -v valgrind >/dev/null || { echo 'valgrind is missing: apt-get install valgrind'; exit 1; }
	@$(RELEASE)/bin/python -m benchmarks.instructions

soak: $(RELEASE)/.stamp-tools ## run for an hour; check losses, delays and memory (ARGS="--seconds 60 --stall")
	@$(RELEASE)/bin/python -m benchmarks.soak $(ARGS)

lab: $(RELEASE)/.stamp-tools ## compare with fio and the kernel on Linux 6.1, 6.12 and 7.3 (QEMU, root): lab/README.md
	@$(RELEASE)/bin/python lab/check.py $(ARGS)

clean: ## remove all that was built
	@rm -rf $(VENVS) $(DIST) .lab build dist src/*.egg-info .benchmarks .hypothesis \
		.mypy_cache .pytest_cache .ruff_cache
	@find src tests tools benchmarks fuzz -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# --- how the environments are built -----------------------------------------

$(COVER)/%: export BLKIOMON_COVERAGE := 1
$(DEBUG)/%: export BLKIOMON_DEBUG := 1
$(SANITIZE)/%: export BLKIOMON_SANITIZE := address,undefined
.venv-fuzz/%: export BLKIOMON_SANITIZE := fuzzer-no-link,address,undefined
.venv-fuzz/%: export CC := clang

requirements = $*/bin/python tools/requirements.py $(1) > $@.txt && \
	$*/bin/pip install --quiet --requirement $@.txt

$(VENVS:=/$(BASE)) $(DIST)/$(BASE): %/$(BASE):
	@command -v '$(PYTHON)' >/dev/null || \
		{ echo '$(PYTHON) is missing: apt-get install python3 python3-venv python3-dev'; exit 1; }
	@'$(PYTHON)' tools/check_python.py
	$(call say,$*: virtual environment)
	@rm -rf $*
	@'$(PYTHON)' -m venv $*
	@touch $@

$(VENVS:=/.stamp-requirements): %/.stamp-requirements: %/$(BASE) pyproject.toml
	$(call say,$*: what blkiomon needs to build and run)
	@$(call requirements,run)
	@touch $@

# Changes when a file is added or removed.
build/sources.list: FORCE
	@mkdir -p build
	@printf '%s\n' $(INPUTS) | cmp -s - $@ || printf '%s\n' $(INPUTS) > $@

$(VENVS:=/.stamp-wheel): %/.stamp-wheel: %/.stamp-requirements build/sources.list $(INPUTS)
	$(call say,$*: wheel$(if $(filter $(DEBUG),$*), with all checks on)$(if \
		$(filter .venv-sanitize .venv-fuzz,$*), with sanitizers))
	@rm -rf $*/wheel
	@find build -path 'build/*/lib*' -type f ! -name '*.so' -delete
	@$*/bin/pip wheel . --quiet --no-deps --no-build-isolation --wheel-dir $*/wheel
	@$*/bin/pip install --quiet --no-deps --no-index --force-reinstall $*/wheel/*.whl
	@touch $@

$(VENVS:=/.stamp-tools): %/.stamp-tools: %/.stamp-requirements pyproject.toml | %/.stamp-wheel
	$(call say,$*: what the tests need)
	@$(call requirements,test $(if $(filter $(RELEASE),$*),lint) $(if $(filter $(COVER),$*),coverage))
	@touch $@

$(DIST)/.stamp-tools: $(DIST)/%: $(DIST)/$(BASE) pyproject.toml
	$(call say,$(DIST): what checks a release)
	@$(DIST)/bin/python tools/requirements.py dist > $@.txt
	@$(DIST)/bin/pip install --quiet --requirement $@.txt
	@touch $@

.venv-fuzz/.stamp-fuzz: %/.stamp-fuzz: %/.stamp-wheel
	$(call say,$*: libFuzzer for Python)
	@$(call requirements,fuzz)
	@touch $@
