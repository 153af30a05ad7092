"""Builds the Cython extensions, which pyproject.toml cannot describe.

Three environment variables change how the extensions are built:

BLKIOMON_DEBUG=1
    Checks bounds and uninitialised memoryviews; line tracing, -Og -g, assert()
    in C, and Cython's annotated HTML beside the C files.  Not an abi3 build, as
    line tracing needs more than the limited API.
BLKIOMON_COVERAGE=1
    The release build with little optimisation.  gcov counts how often each line
    of Cython ran, with or without the GIL, also in included files.
BLKIOMON_SANITIZE=address,undefined
    Compiles and links with -fsanitize=...  The interpreter is not sanitized: run
    it with LD_PRELOAD="$(gcc -print-file-name=libasan.so)" for address.

Every combination has its own directory below build/, for Cython's C files too.
"""

import os
import platform
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("BLKIOMON_DEBUG", "0") not in ("", "0")
COVERAGE = os.environ.get("BLKIOMON_COVERAGE", "0") not in ("", "0")
SANITIZE = [name for name in os.environ.get("BLKIOMON_SANITIZE", "").split(",") if name]

# One wheel for CPython 3.11 and later: the limited API has the buffer protocol
# since 3.11.  Free-threaded builds have no limited API.
ABI3 = (
    not DEBUG
    and platform.python_implementation() == "CPython"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
)

VARIANT = "-".join(["debug" if DEBUG else "release", *["coverage"] * COVERAGE, *SANITIZE])
BUILD_BASE = Path("build", VARIANT)

# A line such as "# cython: boundscheck=False" in a source file overrides these.
# wraparound stays off in debug builds, so that a negative index is an error.
# No overflowcheck: in nogil code it raises without the GIL and crashes (Cython
# 3.3); BLKIOMON_SANITIZE=undefined finds signed overflow.  No nonecheck: with it,
# "self.x += 1" in nogil code does not compile.
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "cdivision": True,
    # Without this, a free-threaded CPython turns the GIL on again, with a warning. Engine and
    # Merger refuse a second thread by an atomic exchange; any other object is owned by one thread.
    "freethreading_compatible": True,
    "initializedcheck": DEBUG,
    "linetrace": DEBUG,
    "wraparound": False,
}

MACROS: list[tuple[str, str | None]] = []
# SLP vectorisation doubles the instruction count here. Inline functions are always inlined,
# whatever their size: pair_records() is specialised for each kind of batch.
COMPILE_ARGS = [
    "-O3",
    "-fno-tree-slp-vectorize",
    "-DCYTHON_INLINE=inline __attribute__((always_inline))",
    "-g0",
]
LINK_ARGS: list[str] = []
if ABI3:
    MACROS += [("Py_LIMITED_API", "0x030B0000")]
if DEBUG or COVERAGE:
    COMPILE_ARGS = ["-Og", "-g"]
if DEBUG:
    MACROS += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")]
    COMPILE_ARGS += ["-UNDEBUG"]
if COVERAGE:
    # Atomic, as several threads count.
    COMPILE_ARGS += ["--coverage", "-fprofile-update=atomic"]
    LINK_ARGS = ["--coverage"]
if SANITIZE:
    COMPILE_ARGS += [
        f"-fsanitize={','.join(SANITIZE)}",
        "-fno-omit-frame-pointer",
        "-fno-sanitize-recover=all",
        "-g",
    ]
    LINK_ARGS += [f"-fsanitize={','.join(SANITIZE)}"]


class BuildExt(build_ext):
    """Runs Cython only when extensions are built, with the C files in build/.

    Cython and setuptools compare the times of files, and so miss changed options
    and interrupted builds.  Therefore a successful build writes a stamp; if it is
    missing or older than the files with the options, everything is rebuilt.
    """

    def run(self) -> None:
        from Cython.Build import cythonize

        stamp = BUILD_BASE / "extensions.stamp"
        options = [Path(name) for name in ("setup.py", "pyproject.toml")]
        built = stamp.stat().st_mtime if stamp.exists() else 0.0
        if any(path.stat().st_mtime > built for path in options):
            self.force = True
        stamp.unlink(missing_ok=True)

        generated = cythonize(
            self.extensions,
            annotate=DEBUG,
            build_dir=str(BUILD_BASE / "cython"),
            compiler_directives=DIRECTIVES,
            force=bool(self.force),
        )
        for extension, result in zip(self.extensions, generated, strict=True):
            extension.sources = result.sources
            extension.depends = result.depends
        self.parallel = True
        super().run()

        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()


def extension(name: str) -> Extension:
    return Extension(
        f"blkiomon.{name}",
        [str(Path("src/blkiomon", *name.split(".")).with_suffix(".pyx"))],
        define_macros=MACROS,
        extra_compile_args=COMPILE_ARGS,
        extra_link_args=LINK_ARGS,
        py_limited_api=ABI3,
    )


EXTENSIONS = (
    "_core",
    "outputs.sysv",
    "sources.merger",
    "sources.perf",
    "sources.sorter",
    "sources.version7",
)

# Where man(1) and the shells look below a prefix.
SHARED = sorted(str(path) for path in Path("share").rglob("*") if path.is_file())

setup(
    data_files=[(str(Path(name).parent), [name]) for name in SHARED],
    ext_modules=[extension(name) for name in EXTENSIONS],
    cmdclass={"build_ext": BuildExt},
    options={
        "build": {"build_base": str(BUILD_BASE)},
        "bdist_wheel": {"py_limited_api": "cp311"} if ABI3 else {},
    },
)
