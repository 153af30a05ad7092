# blkiomon: everything is built in virtual environments below this directory.
#
# Needs GNU make, Python 3.11 or later with venv, its headers and a C compiler;
# says what to install where one is missing.  `make help` lists the targets.

PYTHON ?= python3
TRACE  ?= tests/data/loop-multi-dc.bin
# All tests at once, by file, and one more than there are processors, as some wait; what is asked
# for by ARGS runs as it is asked for.
ARGS   ?=
TESTS   = $(or $(ARGS),-n $(shell echo $$(($$(nproc) + 1))) --dist loadfile)

# One environment per kind of build; stamps, wheel and Python live and die
# together in it.  A stamp is written only when its step has succeeded.
RELEASE  := .venv
DEBUG    := .venv-debug
COVER    := .venv-coverage
SANITIZE := .venv-sanitize
DIST     := .venv-dist

# With clang, the extensions are built for its libFuzzer.
LIBFUZZER = $(if $(filter fuzz,$(MAKECMDGOALS)),$(shell echo 'int LLVMFuzzerTestOneInput() { return 0; }' | \
	clang -fsanitize=fuzzer -xc - -o /dev/null 2>/dev/null && echo yes))
FUZZ      = $(if $(LIBFUZZER),.venv-fuzz,$(SANITIZE))
VENVS    := $(RELEASE) $(DEBUG) $(COVER) $(SANITIZE) .venv-fuzz

# Named after $(PYTHON), so that `make test PYTHON=python3.13` starts afresh.
BASE := .stamp-base-$(subst /,_,$(PYTHON))

# Whatever goes into the wheel, and nothing that an editor or a tool leaves.
SOURCES := $(sort $(shell find src -type f ! -path '*/__pycache__/*' \
	! -path '*.egg-info/*' ! -name '.*' ! -name '*~' ! -name '*.py[co]'))
SHARED  := $(sort $(shell find share -type f 2>/dev/null))
META    := bin/blkiomon pyproject.toml setup.py MANIFEST.in README.md LICENSE
INPUTS  := $(SOURCES) $(SHARED) $(wildcard $(META))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore
export PYTHONNOUSERSITE := 1
# What could make the tests see something other than the wheel, or pip install
# elsewhere, or a release build not be one.
unexport PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX
unexport BLKIOMON_COVERAGE BLKIOMON_DEBUG BLKIOMON_SANITIZE

.DELETE_ON_ERROR:
# One step needs the one before; the compiler is the only one to gain from -j.
.NOTPARALLEL:
.SUFFIXES:
.DEFAULT_GOAL := help
.PHONY: help demo test lint check debug sanitize coverage fuzz soak profile bench guard \
	manual dist dropin everywhere lab clean FORCE

, := ,
say = @echo '==> $(1)' >&2

help: ## this list
	@echo 'Usage: make TARGET [PYTHON=python3.X] [ARGS="arguments for pytest or the benchmarks"]'
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST)

demo: $(RELEASE)/.stamp-wheel ## run blkiomon on a recorded trace
	@$(RELEASE)/bin/blkiomon -I 1 -h - < $(TRACE)

test: lint check ## lint, then test the installed wheel

check: $(RELEASE)/.stamp-tools ## the tests alone
	$(call say,pytest)
	@$(RELEASE)/bin/pytest $(TESTS)

# cython-lint looks for pycodestyle on PATH.
lint: $(RELEASE)/.stamp-tools ## ruff, mypy, stubtest and cython-lint
	$(call say,ruff)
	@$(RELEASE)/bin/ruff check --quiet .
	@$(RELEASE)/bin/ruff format --quiet --check .
	$(call say,mypy)
	@$(RELEASE)/bin/mypy --no-error-summary
	@cd tests && ../$(RELEASE)/bin/mypy --strict --config-file= --no-error-summary typing_example.py
	$(call say,stubtest)
	@said=$$($(RELEASE)/bin/stubtest --concise --allowlist tools/stubtest.txt \
		$(subst /,.,$(patsubst src/%.pyi,%,$(wildcard src/blkiomon/*.pyi src/blkiomon/*/*.pyi)))) || \
		{ echo "$$said"; exit 1; }
	$(call say,cython-lint)
	@PATH="$(CURDIR)/$(RELEASE)/bin:$$PATH" cython-lint src

debug: $(DEBUG)/.stamp-tools ## the tests on a build with all checks on
	$(call say,pytest on the debug build)
	@$(DEBUG)/bin/pytest $(TESTS)

# Python by coverage.py, Cython by gcov; both tell which lines are missing.  Any
# user may add to what was counted: tests give root up.
coverage: $(COVER)/.stamp-tools ## how much of Python and Cython the tests reach, 95 % at least
	@rm -rf build/coverage; mkdir -p -m 1777 build/coverage
	@find build/release-coverage -name '*.gcno' -exec sh -c \
		'for notes; do install -m 666 /dev/null "$${notes%.gcno}.gcda"; done' - {} +
	$(call say,pytest)
	@status=0; \
	$(COVER)/bin/coverage run -m pytest $(TESTS) || status=1; \
	echo '==> statements of Python' >&2; \
	$(COVER)/bin/coverage combine --quiet; \
	$(COVER)/bin/coverage report || status=1; \
	echo '==> lines of Cython' >&2; \
	$(COVER)/bin/python -m tools.gcov build/release-coverage 95 || status=1; \
	exit $$status

# Counts only below Engine.feed, so that start-up, which is far more, is left out.
profile: $(RELEASE)/.stamp-wheel ## where the instructions of the engine go (valgrind)
	@command -v valgrind >/dev/null || { echo 'valgrind is missing: apt-get install valgrind'; exit 1; }
	@valgrind -q --tool=callgrind --toggle-collect='__pyx_pw_*_6Engine_*feed' \
		--callgrind-out-file=build/callgrind.out \
		$(RELEASE)/bin/python -m blkiomon -I 1 -b /dev/null $(TRACE)
	@callgrind_annotate build/callgrind.out | sed -n '/PROGRAM TOTALS/,$$p' | head -n 30

manual: $(RELEASE)/.stamp-wheel ## write man page and completions anew, from --help
	@$(RELEASE)/bin/python -m tools

# Loaded before all else, as the interpreter itself is not sanitized; libstdc++
# because others' extensions bring it later than that.  Python keeps memory to
# its end, which is no leak (make fuzz looks for those).  Every finding ends the
# process: a test that starts one sees it by its status.
preload = $(foreach l,asan ubsan stdc++,$(shell $(CC) -print-file-name=lib$(l).so))

sanitize: $(SANITIZE)/.stamp-tools ## the tests on a build with Address- and UndefinedBehaviorSanitizer
	$(call say,pytest on the sanitized build)
	@LD_PRELOAD='$(strip $(preload))' ASAN_OPTIONS=detect_leaks=0:strict_string_checks=1 \
		UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc $(SANITIZE)/bin/pytest $(TESTS)

# Guided by coverage where there is clang with its libFuzzer; else the same
# mutations and targets without.  See fuzz/README.md.
fuzz: $(FUZZ)/fuzz ## fuzz for SECONDS=60 of processor time, TARGETS="engine merger resync decode from_bytes json"
	@$(FUZZ)/bin/python fuzz/run.py --program $< --seconds $(or $(SECONDS),60) \
		$(addprefix --input ,$(INPUT)) $(TARGETS)

# All of them take minutes; ARGS="pipe growth" runs two, ARGS=--help lists them.
bench: $(RELEASE)/.stamp-tools ## run the benchmarks; what the packaged program takes stands beside
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

# In a prefix of its own, where its bin directory comes before /usr/bin, as that
# of pipx or of /usr/local does.  The original stays what it is compared with.
DROPIN := $(CURDIR)/build/dropin

dropin: dist $(RELEASE)/.stamp-tools ## what `make dist` made takes the place of the original in PATH
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

# A free-threaded CPython cannot load the wheel, and builds the sdist.
everywhere: dist ## test the wheel of `make dist` on every CPython that is there (PYTHONS="...")
	@set -e; for python in $(PYTHONS); do \
		"$$python" -c '' 2>/dev/null || { echo "==> $$python: not here" >&2; continue; }; \
		echo "==> $$python" >&2; \
		rm -rf build/everywhere; \
		"$$python" -m venv build/everywhere; \
		build/everywhere/bin/pip install --quiet hypothesis pytest; \
		build/everywhere/bin/pip install --quiet dist/*.whl || \
			build/everywhere/bin/pip install --quiet dist/*.tar.gz; \
		(cd tests; ../build/everywhere/bin/pytest $(or $(ARGS),-q $(PORTABLE))); \
	done

guard: $(RELEASE)/.stamp-tools ## hold the instructions a record against their baseline (valgrind)
	@command -v valgrind >/dev/null || { echo 'valgrind is missing: apt-get install valgrind'; exit 1; }
	@$(RELEASE)/bin/python -m benchmarks.instructions

soak: $(RELEASE)/.stamp-tools ## an hour in real time: lost, late, grown? (ARGS="--seconds 60 --stall")
	@$(RELEASE)/bin/python -m benchmarks.soak $(ARGS)

lab: $(RELEASE)/.stamp-wheel ## compare with fio and the kernel on Linux 6.1 and 7.3 (QEMU, root): lab/README.md
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

# Python that prints the first thing that is missing, if any.  Statements joined
# by semicolons, no single quotes, and nothing that an old Python cannot parse.
CHECKS = import sys; \
	v = ".".join(map(str, sys.version_info[:2])); \
	sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, \
	and this is " + v + ": name another with PYTHON=python3.X"); \
	import importlib.util as u, os, shlex, shutil, subprocess as s, sysconfig as c; \
	u.find_spec("venv") and u.find_spec("ensurepip") or sys.exit("Python cannot \
	make virtual environments: apt-get install python3-venv"); \
	cc = shlex.split(os.environ.get("CC") or c.get_config_var("CC") or "cc"); \
	shutil.which(cc[0]) or sys.exit("there is no C compiler (" + cc[0] + "): \
	apt-get install build-essential"); \
	os.path.exists(os.path.join(c.get_path("include"), "Python.h")) or sys.exit("the \
	headers of Python " + v + " (Python.h) are missing: apt-get install python3-dev"); \
	cc += ["-I" + c.get_path(p) for p in ("include", "platinclude")]; \
	cc += ["-fsyntax-only", "-include", "Python.h", "-xc", os.devnull]; \
	s.call(cc, stdout=s.DEVNULL, stderr=s.DEVNULL) and sys.exit("the C compiler cannot \
	compile for Python: apt-get install build-essential")

missing = $(shell command -v '$(PYTHON)' >/dev/null 2>&1 || \
	{ echo '$(PYTHON) is missing: apt-get install python3 python3-venv python3-dev'; exit; }; \
	'$(PYTHON)' -c '$(CHECKS)' 2>&1 | tail -n 1)

# Python that prints requirements out of pyproject.toml, one a line.
REQUIREMENTS = import sys, tomllib; \
	t = tomllib.load(open("pyproject.toml", "rb")); \
	run = t["build-system"]["requires"] + t["project"]["dependencies"]; \
	sets = {"run": run} | t["project"]["optional-dependencies"]; \
	print(*sum((sets[a] for a in sys.argv[1:]), []), sep="\n")

requirements = $*/bin/python -c '$(REQUIREMENTS)' $(1) > $@.txt && \
	$*/bin/pip install --quiet --requirement $@.txt

$(VENVS:=/$(BASE)) $(DIST)/$(BASE): %/$(BASE):
	@$(if $(missing),$(error $(missing)))
	$(call say,$*: virtual environment)
	@rm -rf $*
	@'$(PYTHON)' -m venv $*
	@touch $@

$(VENVS:=/.stamp-requirements): %/.stamp-requirements: %/$(BASE) pyproject.toml
	$(call say,$*: what blkiomon needs to build and run)
	@$(call requirements,run)
	@touch $@

# Changes when a file comes or goes, which no file's time would tell.
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
	@$(DIST)/bin/python -c '$(REQUIREMENTS)' dist > $@.txt
	@$(DIST)/bin/pip install --quiet --requirement $@.txt
	@touch $@

# Python that prints how to compile against this Python and link with it.
EMBED = import sysconfig as c; v = c.get_config_var; \
	print("-I" + c.get_path("include"), "-L" + v("LIBDIR"), "-L" + v("LIBPL"), \
	"-Wl,-rpath," + v("LIBDIR"), "-lpython" + v("LDVERSION"), v("LIBS"), v("SYSLIBS"))

FUZZERS := $(wildcard fuzz/*.[ch])

$(addsuffix /fuzz,.venv-fuzz .venv-sanitize): %/fuzz: %/.stamp-wheel $(FUZZERS)
	$(call say,$*: fuzzing program)
	@$(CC) -O2 -g -fno-omit-frame-pointer -Wall -Wextra -rdynamic \
		-DTOP='"$(CURDIR)"' -DPYTHON='"$(CURDIR)/$*/bin/python"' \
		-fsanitize=$(if $(filter .venv-fuzz,$*),fuzzer -fsanitize=)address,undefined \
		fuzz/harness.c fuzz/mutator.c $(if $(filter .venv-sanitize,$*),fuzz/blind.c) \
		$$($*/bin/python -c '$(EMBED)') -o $@
