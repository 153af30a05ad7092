"""Prints the tables of each benchmark as Markdown: `python -m benchmarks [NAME]...`"""

from __future__ import annotations

import argparse
import datetime
import platform
from importlib import import_module
from pathlib import Path

from benchmarks.report import Options, show

NAMES = (
    *("engine", "merge", "process", "pipe", "start", "memory", "growth", "lost", "hostile"),
    *("idle", "captures", "metrics", "topology", "top", "rendering", "archive", "scaling"),
    *("misses", "hardware"),
)


def machine() -> str:
    """The processor's name and the kernel's version."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, Linux {platform.release()}"
    return f"{platform.machine()}, Linux {platform.release()}"


def main() -> None:
    modules = {name: import_module(f"benchmarks.{name}") for name in NAMES}
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Prints the tables of each benchmark, or of those named, as Markdown.",
        epilog="\n".join(
            f"  {name:<10}{(module.__doc__ or '').partition(chr(10))[0]}"
            for name, module in modules.items()
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="small streams and few runs, to try the benchmarks"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="add runs of many minutes: the packaged program at its slowest, a billion issues",
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NAMES:
            parser.error(f"unknown benchmark {name!r}; use {', '.join(NAMES)}")

    today = datetime.datetime.now(datetime.UTC).date()
    print(f"{today}, {machine()}, Python {platform.python_version()}", flush=True)
    options = Options(arguments.quick, arguments.full)
    for name in arguments.names or NAMES:
        for part in modules[name].report(options):
            show(part)


if __name__ == "__main__":
    main()
