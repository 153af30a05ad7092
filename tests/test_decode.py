"""``blkiomon decode`` and ``read_stats``: both layouts, text, JSON, CSV, and messages."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import runner
from intervals import BIDIRECTIONAL, READ, WRITE, Request, interval

from blkiomon.commands import decode
from blkiomon.engine import layout
from blkiomon.errors import StatsError
from blkiomon.formats import human_text, stats_file, stats_reader
from blkiomon.interval.value import Interval

DATA = Path(__file__).parent / "data"
TIME_S = 1795425087
SIZES = {"0.3": 424, "0.2": 344}
VERSIONS = sorted(SIZES)

Capture = pytest.CaptureFixture[str]


pytestmark = pytest.mark.usefixtures("utc")


def item(devices: int = 3) -> Interval:
    return interval(
        [
            request
            for device in range(1, devices + 1)
            for request in (
                Request(device, READ, 4096, 5 + device),
                Request(device, WRITE, 1 << 20, 70_000, op=1),
                Request(device, BIDIRECTIONAL, 512, 9, op=6),
            )
        ]
        + [Request(8 << 20 | 16, WRITE, 512, 50_000_000, op=1)],
        TIME_S,
    )


def written(version: str, devices: int = 3) -> bytes:
    return b"".join(stats_file.renderer(version)(item(devices)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stats.bin"


# --- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [1, 3, 52, 400])  # 344 * 53 is 424 * 43
@pytest.mark.parametrize("version", VERSIONS)
def test_layouts_are_recognised(version: str, devices: int) -> None:
    stats = stats_reader.parse(written(version, devices))
    assert (stats.version, len(stats.records), stats.tail_bytes) == (version, devices + 1, 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_structs_come_back_as_they_were(version: str, file: Path) -> None:
    file.write_bytes(written(version))
    records = stats_reader.read_stats(file)
    assert records.dtype == layout.STATS
    assert records.dtype.isnative
    for record, stats in zip(records, item().device_stats(), strict=True):
        back = stats_reader.device_stats(record)
        assert record["time"] == TIME_S
        for name in stats._fields:
            if version == "0.2" and name.startswith("thrput"):
                assert getattr(back, name).count == 0
            else:
                assert getattr(back, name) == getattr(stats, name), name


def test_last_bucket_of_layout_0_2_is_read_in_either_byte_order() -> None:
    wire = np.frombuffer(written("0.2"), layout.STATS_02).copy()
    assert wire["d2c_hist"][0, -1] == 1  # the slow one
    for name in ("size_hist", "d2c_hist"):
        wire[name][:, -1] = wire[name][:, -1].byteswap()
    records = stats_reader.parse(wire.tobytes()).records
    assert (records == stats_reader.parse(written("0.2")).records).all()


def test_empty_file_has_no_structs(file: Path) -> None:
    file.touch()
    assert len(stats_reader.read_stats(file)) == 0


@pytest.mark.parametrize(
    ("data", "offset", "why"),
    [
        (b"x" * 100, 0, "100 bytes are less than one struct"),
        (b"x" * 4240, 0, "not a statistics file written with -b"),
        (bytes(424), 0, "not a statistics file written with -b"),
        ((DATA / "loop-phases-dc.bin").read_bytes()[:42400], 0, "not a statistics file"),
        (
            written("0.3") + b"x" * 424,
            4 * 424,
            "at byte offset 1696: the statistics of layout 0.3 end",
        ),
        (written("0.3")[:-1], 3 * 424, "at byte offset 1272: the last 423 bytes are less than one"),
        (written("0.2") + b"x", 4 * 344, "at byte offset 1376: the last 1 byte is less than one"),
    ],
)
def test_other_bytes_are_refused(data: bytes, offset: int, why: str, file: Path) -> None:
    file.write_bytes(data)
    with pytest.raises(StatsError, match=why) as caught:
        stats_reader.read_stats(file)
    assert caught.value.offset == offset


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_text_is_what_the_run_printed(version: str, tmp_path: Path, capfd: Capture) -> None:
    data = (DATA / "loop-multi-dc.bin").read_bytes()
    run = runner.outputs_of(data, tmp_path, stat_version=version)
    assert decode.main([str(tmp_path / "binary")]) == 0
    assert capfd.readouterr().out == run.human.decode()
    assert run.human.count(b"\ndevice: ") > 1


@pytest.mark.parametrize("version", VERSIONS)
def test_text_of_a_struct_is_what_the_run_prints(version: str, file: Path, capfd: Capture) -> None:
    file.write_bytes(written(version))
    assert decode.main(["--text", str(file)]) == 0
    assert capfd.readouterr().out.encode() == b"".join(human_text.renderer(version)(item()))


@pytest.mark.parametrize("version", VERSIONS)
def test_json_has_a_line_for_each_struct(version: str, file: Path, capfd: Capture) -> None:
    file.write_bytes(written(version))
    assert decode.main([str(file), "--json"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["device"] for line in lines] == ["8:16", "0:3", "0:2", "0:1"]
    sdb, first = lines[0], lines[-1]
    assert (sdb["layout"], sdb["time_s"], sdb["time"]) == (version, TIME_S, "2026-11-23T09:11:27Z")
    assert sdb["read"]["size_bytes"]["min"] is sdb["read"]["d2c_us"]["mean"] is None
    assert sdb["write"]["d2c_us"] == {
        "count": 1,
        "min": 50_000_000,
        "max": 50_000_000,
        "sum": 50_000_000,
        "sum_squares": 50_000_000**2,
        "mean": 5e7,
        "variance": 0.0,
    }
    throughput = sdb["write"]["throughput_bytes_per_ms"]
    assert throughput is None if version == "0.2" else throughput["count"] == 1
    assert first["bidirectional"] == 1
    histogram = first["size_bytes_histogram"]
    counts = {upto: n for upto, n in zip(histogram["upto"], histogram["count"], strict=True) if n}
    assert counts == {1024: 1, 4096: 1, 1 << 20: 1}
    assert sdb["d2c_us_histogram"]["upto"][-1] is None
    assert sdb["d2c_us_histogram"]["count"][-1] == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_csv_has_a_row_for_each_struct(version: str, file: Path, capfd: Capture) -> None:
    file.write_bytes(written(version))
    assert decode.main(["--csv", str(file)]) == 0
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out), strict=True))
    assert len(rows) == 4
    sdb, first = rows[0], rows[-1]
    assert (sdb["device"], sdb["read_size_bytes_min"]) == ("8:16", "")
    assert sdb["write_d2c_us_sum"] == "50000000"
    assert sdb["write_throughput_bytes_per_ms_count"] == ("" if version == "0.2" else "1")
    assert sdb["d2c_us_upto_inf"] == "1"
    assert (first["size_bytes_upto_1024"], first["bidirectional"]) == ("1", "1")
    assert None not in first and None not in first.values()


def test_variance_of_sums_that_wrapped_is_not_known(file: Path, capfd: Capture) -> None:
    big = interval([Request(1, READ, 512, 2**31)] * 100)  # the sum of squares exceeds 64 bits
    file.write_bytes(b"".join(stats_file.renderer("0.3")(big)))
    assert decode.main([str(file), "--json"]) == 0
    read = json.loads(capfd.readouterr().out)["read"]
    assert read["d2c_us"]["mean"] == 2**31
    assert read["d2c_us"]["variance"] is None
    assert read["size_bytes"]["variance"] == 0


def test_standard_input_is_read(file: Path) -> None:
    file.write_bytes(written("0.3"))
    with open(file, "rb") as stdin:
        assert runner.succeed("decode", "-", stdin=stdin).count(b"\ndevice: ") == 4


def test_whole_structs_are_printed_before_a_tail_is_reported(file: Path, capfd: Capture) -> None:
    file.write_bytes(written("0.3")[:-24])
    assert decode.main([str(file)]) == 3
    out, err = capfd.readouterr()
    assert out.count("\ndevice: ") == 3
    assert err == (
        f"blkiomon: {file}: at byte offset 1272: the last 400 bytes are less than one "
        "struct of layout 0.3\n"
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "takes one file"),
        (["a", "b"], "takes one file"),
        (["--json", "--csv", "a"], "one of text, JSON and CSV"),
        (["--xml", "a"], "option --xml not recognized"),
    ],
)
def test_misuse_shows_the_usage(arguments: list[str], why: str, capfd: Capture) -> None:
    assert decode.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert why in err and err.endswith(decode.COMMAND.usage_text)


def test_missing_file_is_reported(tmp_path: Path, capfd: Capture) -> None:
    assert decode.main([str(tmp_path / "missing")]) == 3
    assert capfd.readouterr().err == f"blkiomon: {tmp_path}/missing: {os.strerror(2)}\n"


# --- endless and closed input ---------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in several pieces."""
    monkeypatch.setattr(stats_reader, "PIECE_BYTES", 424 * 344)


@pytest.mark.parametrize("version", VERSIONS)
def test_pieces_of_a_file_are_the_whole(
    version: str, file: Path, small_pieces: None, capfd: Capture
) -> None:
    data = written(version, 900)
    file.write_bytes(data)
    assert len(data) > 2 * stats_reader.PIECE_BYTES
    expected = stats_reader.parse(data).records
    assert (stats_reader.read_stats(file) == expected).all()
    assert decode.main([str(file), "--csv"]) == 0
    out, err = capfd.readouterr()
    assert out.count("\n") == 1 + len(expected) and out.count("time_s") == 1
    assert err == ""


def test_offsets_count_from_the_beginning_of_a_file(
    file: Path, small_pieces: None, capfd: Capture
) -> None:
    data = written("0.3", 900)
    for end, told in (
        (b"x" * 7, "the last 7 bytes are less than one"),
        (b"\0" * 424, "other bytes follow"),
    ):
        file.write_bytes(data + end)
        with pytest.raises(StatsError, match=f"at byte offset {len(data)}: .*{told}") as raised:
            stats_reader.read_stats(file)
        assert raised.value.offset == len(data)
        assert decode.main([str(file)]) == 3
        assert f"at byte offset {len(data)}: " in capfd.readouterr().err


def test_endless_input_of_something_else_is_refused_at_once(capfd: Capture) -> None:
    assert decode.main(["/dev/zero"]) == 3
    said = capfd.readouterr().err
    assert said.startswith("blkiomon: /dev/zero: not a statistics file")
    assert said.count("\n") == 1
    with pytest.raises(StatsError):
        stats_reader.read_stats("/dev/zero")


def test_closed_standard_input_is_reported() -> None:
    done = runner.shell("<&-", "decode", "-")
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr == b"blkiomon: standard input: Bad file descriptor\n"


def test_signal_ends_decode_while_it_waits_for_input() -> None:
    with runner.Running("decode", "-") as process:
        process.write(b"x")
        process.await_read()
        process.signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
