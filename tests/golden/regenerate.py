"""Makes the files of this directory anew from the original program, which must be installed."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import goldenfiles
import oracle
import quirks
import streams

SEEDS = (3, 6, 11, 18, 20, 41)


def small() -> dict[str, bytes]:
    """Inputs of the small cases: some random streams, and the quirks that are no faults."""
    cases = {f"seed-{seed}": streams.generate(seed, "faults", 60).data for seed in SEEDS}
    for name in quirks.GOLDEN:
        cases[name.replace("_", "-")] = quirks.CASES[name]
    return cases


def main() -> None:
    """Write inputs and outputs."""
    if oracle.find() is None:
        sys.exit("the original blkiomon 0.3 is not installed (apt-get install blktrace)")
    for path in HERE.glob("*.*"):
        if path.suffix[1:] in ("bin", *goldenfiles.OUTPUTS):
            path.unlink()
    cases = small()
    for name, data in cases.items():
        goldenfiles.input_path(name).write_bytes(data)
    for name in goldenfiles.REAL:
        cases[name] = goldenfiles.input_path(name).read_bytes()
    for name, result in zip(cases, oracle.run_many(list(cases.values())), strict=True):
        outputs = (result.human, result.binary, result.driver, result.debug)
        for option, data in zip(goldenfiles.OUTPUTS, outputs, strict=True):
            (HERE / f"{name}.{option}").write_bytes(data)
        print(name, result.returncode, [len(data) for data in outputs])


if __name__ == "__main__":
    main()
