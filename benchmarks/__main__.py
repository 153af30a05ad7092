"""Prints the tables of each benchmark as Markdown: `python -m benchmarks [NAME]...`"""

from __future__ import annotations

import argparse
import datetime
import platform
from pathlib import Path

from benchmarks import (
    archive,
    engine,
    growth,
    hardware,
    hostile,
    idle,
    lost,
    memory,
    merge,
    metrics,
    misses,
    pipe,
    process,
    rendering,
    start,
)
from benchmarks.report import Options, show

BENCHMARKS = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        engine,
        merge,
        process,
        pipe,
        start,
        memory,
        growth,
        lost,
        hostile,
        idle,
        metrics,
        rendering,
        archive,
        misses,
        hardware,
    )
}


def machine() -> str:
    """Processor and kernel."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, Linux {platform.release()}"
    return f"{platform.machine()}, Linux {platform.release()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Prints the tables of each benchmark, or of those named, as Markdown.",
        epilog="\n".join(
            f"  {name:<10}{(module.__doc__ or '').partition(chr(10))[0]}"
            for name, module in BENCHMARKS.items()
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="small streams and few runs: does it all work?"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="run also what takes minutes: the packaged program at its slowest, a billion issues",
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}, only {', '.join(BENCHMARKS)}")

    today = datetime.datetime.now(datetime.UTC).date()
    print(f"{today}, {machine()}, Python {platform.python_version()}", flush=True)
    options = Options(arguments.quick, arguments.full)
    for name in arguments.names or BENCHMARKS:
        for part in BENCHMARKS[name].report(options):
            show(part)


if __name__ == "__main__":
    main()
