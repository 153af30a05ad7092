"""Which lines of Cython ran, by gcov: `make coverage`.

gcov counts how often each line of C ran. In the C files, a comment with a file and a line number
precedes the code of each line of Cython. A line of Cython ran if the first C line after one of its
comments ran. Later C lines do not count: the last one may be a label, such as that after an
``else``, which other branches also reach.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

_POSITION = re.compile(r'\s*/\* "(.+)":(\d+)$|/\* #### Code section')
_LABEL = re.compile(r"\s*__pyx_L\w+:;$")
_OURS = re.compile(r"(?:src/)?(blkiomon/.+)")


def counts(directory: Path) -> dict[str, dict[int, int]]:
    """How often each line ran, by file, of all files below src/."""
    found: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for data in sorted(directory.rglob("*.gcda")):
        command = ["gcov", "--json-format", "--stdout", str(data)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for file in json.loads(text)["files"]:
            if file["file"].endswith(f"{data.stem}.c"):
                ran: dict[int, int] = defaultdict(int)
                for line in file["lines"]:  # each copy of a function has its own counts
                    ran[line["line_number"]] += line["count"]
                for name, number, count in cython_counts(Path(file["file"]).read_text(), ran):
                    found[name][number] += count
    return found


def cython_counts(source: str, ran: Mapping[int, int]) -> Iterator[tuple[str, int, int]]:
    """File, line and count of each line of Cython, from how often the lines of its C file ran."""
    position: tuple[str, int] | None = None
    for number, line in enumerate(source.splitlines(), 1):
        if match := _POSITION.match(line):
            ours = _OURS.fullmatch(match[1] or "")
            position = (f"src/{ours[1]}", int(match[2])) if ours else None
        elif position and number in ran and not _LABEL.match(line):
            yield *position, ran[number]
            position = None


def ranges(numbers: list[int]) -> str:
    """Such as 3-5, 9."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(sorted(numbers)), lambda item: item[1] - item[0])
    ]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def main(directory: Path, least_percent: float) -> int:
    """Print the lines that did not run; returns the exit status."""
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
