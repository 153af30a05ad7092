"""Fuzzes one target in this process, by Atheris or, without it, by a plain loop.

    fuzzer.py TARGET FIGURES CORPUS... [-libfuzzer_option=VALUE...]    mutates the corpora's files
    fuzzer.py TARGET FIGURES FILE                                      runs one file

FIGURES is a file of three native 64-bit counters: executions, records fed, bytes of input.
``run.py`` starts this program with the sanitizers' libraries preloaded.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

# For its report a sanitizer starts a symbolizer, which cannot load these libraries.  It passes on
# the environment on the stack, which the C library replaces when numpy sets a variable.
os.environ.pop("LD_PRELOAD", None)

import numpy as np

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP / "fuzz"), str(TOP / "tests")]

from mutator import cross, flip_bits, mutate  # noqa: E402

# An ImportError's traceback would keep this module's frame, which looks like a leak.
atheris = importlib.import_module("atheris") if importlib.util.find_spec("atheris") else None

INSTRUMENTED = {
    "decode": ("blkiomon.formats.stats_reader", "blkiomon.commands.decode"),
    "from_bytes": (
        "blkiomon.formats.binary_codec", "blkiomon.formats.validation", "blkiomon.interval",
    ),
    "json": (
        "blkiomon.formats.json_codec", "blkiomon.formats.validation", "blkiomon.interval",
        "blkiomon.commands.report",
    ),
}  # fmt: skip
"""Python modules and packages whose branches guide a target, as do those of all extensions."""

Target = Callable[[bytes], None]


def load(name: str) -> Callable[[memoryview], int]:
    """Import a target, and count the branches of the modules that guide it."""
    modules = INSTRUMENTED.get(name, ())
    if atheris and modules:
        from atheris.import_hook import AtherisMetaPathFinder

        class Finder(AtherisMetaPathFinder):
            def find_spec(self, module: str, path: object, target: object = None) -> object:
                if f"{module}.".startswith(tuple(f"{name}." for name in modules)):
                    return super().find_spec(module, path, target)
                return None

        # No tracing of comparisons: Atheris 3.0.0 leaks compared values that are arrays.
        sys.meta_path.insert(0, Finder({"blkiomon"}, set(), True, trace_dataflow=False))
    import targets

    assert set(modules) <= set(sys.modules), f"{name} does not import all of {modules}"
    function: Callable[[memoryview], int] = getattr(targets, name)
    return function


def counted(function: Callable[[memoryview], int], figures: Path) -> Target:
    """A target that adds each call to the figures; they outlive a crash."""
    counts = np.memmap(figures, np.uint64, "w+", shape=3)

    def call(data: bytes) -> None:
        records = function(memoryview(data))
        counts[:] += np.array([1, records, len(data)], np.uint64)

    return call


def loop(name: str, call: Target, arguments: list[str]) -> None:
    """Run all inputs, then mutations of them, without guidance, until the time is over.

    An input that fails, or runs for more than the time limit, remains as ``blind-input``.
    """
    options = dict(a[1:].split("=", 1) for a in arguments if a.startswith("-"))
    paths = [Path(a) for a in arguments if not a.startswith("-")]
    files = [f for path in paths for f in (sorted(path.iterdir()) if path.is_dir() else [path])]
    inputs = [file.read_bytes() for file in files]
    most = int(options.get("max_len", 65536))
    artifact = Path(options.get("artifact_prefix", "build/fuzz/") + "blind-input")

    def run(data: bytes) -> None:
        artifact.write_bytes(data)
        faulthandler.dump_traceback_later(float(options.get("timeout", 60)), exit=True)
        call(data)

    for data in inputs:
        run(data)
    rng = Random(time.time_ns())
    end = time.monotonic() + float(options.get("max_total_time", 0))
    while time.monotonic() < end:
        data = rng.choice(inputs)
        if rng.randrange(8) == 0:
            data = cross(name, data, rng.choice(inputs), most, rng)
        for _ in range(rng.randrange(8) + 1):
            data = mutate(name, data, most, rng, flip_bits(rng))
        run(data)
    faulthandler.cancel_dump_traceback_later()
    artifact.unlink()


def main() -> None:
    name, figures, *arguments = sys.argv[1:]
    call = counted(load(name), Path(figures))
    if not atheris:
        loop(name, call, arguments)
        return
    atheris.Setup(
        [sys.argv[0], *arguments],
        call,
        custom_mutator=lambda data, most, seed: mutate(
            name, data, most, Random(seed), atheris.Mutate
        ),
        custom_crossover=lambda a, b, most, seed: cross(name, a, b, most, Random(seed)),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
    # Python's own shutdown leaks some objects: the C library's exit() skips it, and the sanitizer
    # looks for leaks.  It does not see what only Python's stack refers to, so this is a global.
    end_process = ctypes.CDLL(None).exit
    end_process(0)
