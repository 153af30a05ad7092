"""The line behind the bytes, where it needs more than its outputs to be tested."""

from __future__ import annotations

from pathlib import Path

import pytest
import reference
import runner
import streams

from blkiomon import monitor


@pytest.mark.parametrize("seed", range(10))
def test_interval_of_several_cuts_is_one_interval(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "MATCHES_A_CUT", 3)
    data = streams.generate(seed, avoid="nothing", count=200).data
    whole = reference.Reference(max_age_ns=600 * 10**9)
    whole.feed(data)
    stats = whole.finish()
    ours = runner.outputs_of(data, tmp_path, read_bytes=500)
    assert ours.human.decode() == reference.human_text(stats, 0)
    assert ours.binary == reference.binary(stats, 0)
    assert ours.debug.decode() == whole.debug_text()
