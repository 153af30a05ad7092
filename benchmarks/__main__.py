"""Prints one table of each benchmark as Markdown."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

from benchmarks import engine, merge, process


def machine() -> str:
    """Processor and kernel."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, Linux {platform.release()}"
    return f"{platform.machine()}, Linux {platform.release()}"


def main() -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    print(f"{today}, {machine()}, Python {platform.python_version()}\n", flush=True)
    print("Engine, records in memory, all statistics on, one core (best of three):\n")
    print("| stream | ns a record | M records/s |\n|---|---|---|", flush=True)
    for name, cost_ns in engine.rows():
        print(f"| {name} | {cost_ns:.1f} | {1000 / cost_ns:.1f} |", flush=True)
    copy_ns = engine.copy_ns()
    print(f"| for comparison: memcpy of 48 bytes a record | {copy_ns:.1f} | {1000 / copy_ns:.1f} |")

    print("\nTrace files in the page cache, each record in a random one of them:\n")
    print("| files | reading and merging, ns a record | the engine as well |")
    print("|---|---|---|", flush=True)
    for name, cost in merge.rows():
        print(f"| {name} | {cost.read_ns:.1f} | {cost.read_and_feed_ns:.1f} |", flush=True)

    print("\nWhole process on a file in the page cache, start-up included:\n")
    print("| stream | records | ours, CPU s (wall) | packaged, CPU s (wall) | CPU ratio |")
    print("|---|---|---|---|---|", flush=True)
    for name, records, ours, theirs in process.rows():
        line = f"| {name} | {records:,} | {ours.cpu_s:.2f} ({ours.wall_s:.2f}) "
        if theirs is None:
            line += "| not installed | |"
        else:
            line += (
                f"| {theirs.cpu_s:.2f} ({theirs.wall_s:.2f}) | {theirs.cpu_s / ours.cpu_s:.1f} |"
            )
        print(line, flush=True)


if __name__ == "__main__":
    main()
