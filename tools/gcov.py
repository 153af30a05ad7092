"""How much of Cython ran, by gcov: `make coverage`.

gcov tells how often each line of the C files ran. Above what a line of Cython was made into stands
a comment that says which one it was, of which file; it ran if any of its C did.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from itertools import groupby
from pathlib import Path

_POSITION = re.compile(r'\s*/\* "(.+)":(\d+)$|/\* #### Code section')
_OURS = re.compile(r"(?:src/)?(blkiomon/.+)")


def counts(directory: Path) -> dict[str, dict[int, int]]:
    """How often each line of a file ran, of all files below src/."""
    found: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for data in sorted(directory.rglob("*.gcda")):
        command = ["gcov", "--json-format", "--stdout", str(data)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for file in json.loads(text)["files"]:
            if file["file"].endswith(f"{data.stem}.c"):
                positions = positions_of(Path(file["file"]))
                for line in file["lines"]:
                    if position := positions[line["line_number"] - 1]:
                        found[position[0]][position[1]] += line["count"]
    return found


def positions_of(source: Path) -> list[tuple[str, int] | None]:
    """For each line of a C file, which line of Cython it was made of."""
    position: tuple[str, int] | None = None
    positions = []
    for line in source.read_text().splitlines():
        if match := _POSITION.match(line):
            ours = _OURS.fullmatch(match[1] or "")
            position = (f"src/{ours[1]}", int(match[2])) if ours else None
        positions.append(position)
    return positions


def ranges(numbers: list[int]) -> str:
    """Such as 3-5, 9."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(sorted(numbers)), lambda item: item[1] - item[0])
    ]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def main(directory: Path, least_percent: float) -> int:
    """Print what is missing; returns the exit status."""
    everything = missed = 0
    print(f"{'Name':<32}{'Lines':>7}{'Miss':>7}{'Cover':>7}   Missing")
    for name, lines in sorted(counts(directory).items()):
        missing = [number for number, count in lines.items() if not count]
        everything, missed = everything + len(lines), missed + len(missing)
        cover = f"{1 - len(missing) / len(lines):.0%}"
        print(f"{name:<32}{len(lines):>7}{len(missing):>7}{cover:>7}   {ranges(missing)}")
    percent = 100 * (1 - missed / everything) if everything else 0.0
    print(f"{'TOTAL':<32}{everything:>7}{missed:>7}{percent:>6.1f}%")
    return int(percent < least_percent)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
