"""Parquet: the figures of the groups in proper types, in a file that is whole at every end."""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import runner
from intervals import NAMES, example, interval_of
from runner import TIMEOUT_S, await_size, until

from blkiomon.errors import OutputError
from blkiomon.formats.flat_table import COLUMNS
from blkiomon.formats.parquet import ParquetFormat
from blkiomon.formats.rendering import Format
from blkiomon.interval.value import Interval
from blkiomon.outputs.catalog import OutputSettings
from blkiomon.outputs.destinations import open_outputs
from blkiomon.outputs.files import FileSink

S = 10**9
DATA = Path(__file__).parent / "data"
ITEMS = [interval_of(example(), k * S, (k + 1) * S) for k in range(3)]


def table_of(number: int) -> pa.Table:
    form = ParquetFormat(NAMES.get)
    data = b"".join(piece for item in ITEMS[:number] for piece in form.render(item))
    return pq.read_table(io.BytesIO(data + b"".join(form.finish())))


def test_parquet_figures_equal_those_of_the_groups() -> None:
    table = table_of(3)
    rows = table.to_pylist()
    groups = [(item, group) for item in ITEMS for group in item.groups()]
    for row, (item, group) in zip(rows, groups, strict=True):
        assert (row["start_ns"], row["end_ns"]) == (item.start_ns, item.end_ns)
        assert row["requests"] == group.requests
        assert row["d2c_p99_ns"] == group.d2c_ns.percentile(99)
        assert row["d2c_stddev_ns"] == group.d2c_ns.stddev
        assert row["d2c_low_ns"] == group.d2c_ns.low.tolist()
        assert row["d2c_count"] == group.d2c_ns.counts.tolist()
        assert row["lost_events"] == (item.counts.lost_events if group.device is None else None)
    assert rows[0]["name"] == "sdb"


def test_columns_have_proper_types() -> None:
    schema = table_of(1).schema
    assert schema.names == [*(column.name for column in COLUMNS), "d2c_low_ns", "d2c_count"]
    assert schema.field("start").type == pa.timestamp("ns", "UTC")
    assert schema.field("requests").type == schema.field("d2c_p50_ns").type == pa.uint64()
    assert schema.field("iops").type == pa.float64()
    assert schema.field("device").type == pa.string()
    assert schema.field("d2c_count").type == pa.list_(pa.uint64())


def test_time_is_null_where_it_is_not_known() -> None:
    form = ParquetFormat()
    data = b"".join(form.render(interval_of([], 0, S, anchored=False)))
    table = pq.read_table(io.BytesIO(data + b"".join(form.finish())))
    assert table["start"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("start_ns", "end_ns", "anchored"),
    [(2**63 - 10, 2**63 + 5, False), (2**63, 2**64 - 1, True), (-(2**64), 5, True)],
)
def test_time_out_of_range_is_null_beside_the_figures(
    start_ns: int, end_ns: int, anchored: bool
) -> None:
    form = ParquetFormat()
    wild = interval_of(example(), start_ns, end_ns, anchored=anchored)
    data = b"".join([*form.render(wild), *form.render(ITEMS[0]), *form.finish()])
    rows = pq.read_table(io.BytesIO(data)).to_pylist()
    n = len(wild.groups())
    for row, group in zip(rows[:n], wild.groups(), strict=True):
        assert row["start_ns"] == (start_ns if -(2**63) <= start_ns < 2**63 else None)
        assert row["end_ns"] == (end_ns if end_ns < 2**63 else None)
        assert row["start"] is None
        assert row["requests"] == group.requests
    assert rows[n]["start_ns"] == ITEMS[0].start_ns


@pytest.mark.parametrize("number", [0, 3])
def test_file_is_whole_when_closed(number: int, tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "out.parquet"
    outputs = open_outputs(OutputSettings(destinations={"parquet": str(path)}), said.append)
    for item in ITEMS[:number]:
        outputs.put(item)
    outputs.close()
    assert pq.ParquetFile(path).num_row_groups == number
    assert not said and not outputs.failed


def test_pipe_gets_the_same_file(tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()
    received = bytearray()

    def receive() -> None:
        with open(read_fd, "rb") as file:
            received.extend(file.read())

    reader = threading.Thread(target=receive)
    reader.start()
    outputs = open_outputs(
        OutputSettings(destinations={"parquet": f"/proc/self/fd/{write_fd}"}), pytest.fail
    )
    os.close(write_fd)
    for item in ITEMS:
        outputs.put(item)
    outputs.close()
    reader.join(TIMEOUT_S)
    assert pq.read_table(io.BytesIO(received)).num_rows == sum(len(i.groups()) for i in ITEMS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, None])
def test_file_is_whole_after_every_end_of_a_run(number: int | None, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with runner.Running("-I", "0.1", "--parquet", path).started() as running:
        running.write((DATA / "loop-phases-dc.bin").read_bytes()[: 48 * 2000])
        await_size(path, 20_000)
        status, _, _ = running.end(number)
    assert status == 0
    table = pq.read_table(path)
    assert sum(table.filter(pa.compute.field("device") == "all")["requests"].to_pylist()) > 0


def test_parquet_goes_to_standard_output(tmp_path: Path) -> None:
    (tmp_path / "trace").write_bytes((DATA / "loop-phases-dc.bin").read_bytes()[: 48 * 4000])
    with open(tmp_path / "trace", "rb") as trace:
        done = runner.call("-I", "0.1", "--parquet", "-", stdin=trace)
    assert (done.returncode, done.stderr) == (0, b"")
    assert pq.read_table(io.BytesIO(done.stdout)).num_rows > 0


def test_missing_pyarrow_is_reported_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    hidden = "import sys; sys.modules['pyarrow'] = None; from blkiomon.commands.cli import main; "
    done = runner.python(hidden + "sys.exit(main())", "-I0.1", "--parquet", path)
    assert done.returncode == 4
    assert done.stderr == b"blkiomon: Parquet needs pyarrow: pip install 'blkiomon[arrow]'\n"
    assert not path.exists()


def test_parquet_and_text_do_not_share_a_path(tmp_path: Path) -> None:
    path = str(tmp_path / "out")
    with pytest.raises(OutputError, match="cannot share"):
        open_outputs(
            OutputSettings(destinations={"parquet": path, "human-readable": path}), pytest.fail
        )


def test_file_that_lost_a_part_gets_no_footer(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk, a footer would make a damaged file look whole."""
    path, write, sizes = tmp_path / "out.parquet", os.write, []

    def full_once(fd: int, data: memoryview) -> int:
        sizes.append(len(data))
        if len(sizes) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr("blkiomon.outputs.files.os.write", full_once)
    form = ParquetFormat()
    formats = [Format((Interval,), form.render, finish=form.finish)]
    sink = FileSink(str(path), formats, said.append, lossless=True)
    sink.start()
    for item in ITEMS:
        sink.put(item)
    until(lambda: sink.failed)
    sink.close()
    assert sink.dropped_intervals == 2
    assert said[-1].endswith("No space left on device (nothing more is written there)")
    data = path.read_bytes()
    assert data.startswith(b"PAR1") and not data.endswith(b"PAR1")
    assert len(sizes) == 2 and len(data) == sizes[0]


def test_directory_gets_a_whole_file_of_every_interval_and_reads_as_one_table(
    tmp_path: Path, said: list[str]
) -> None:
    # Imported here: they would delay the collection of this file by a second.
    import duckdb
    import pandas
    import polars

    outputs = open_outputs(OutputSettings(destinations={"parquet": f"{tmp_path}/"}), said.append)
    n_rows = 0
    for number, item in enumerate(ITEMS, 1):
        outputs.put(item)
        until(lambda n=number: len(list(tmp_path.glob("*.parquet"))) >= n)  # type: ignore[misc]
        n_rows += len(item.groups())
        assert pq.read_table(tmp_path).num_rows == n_rows  # before the end
    outputs.close()
    assert not said and not outputs.failed
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"interval-{item.end_ns:020}.parquet" for item in ITEMS
    ]
    query = f"select sum(requests) as n from '{tmp_path}/*.parquet'"
    whole = duckdb.connect().execute(query).fetchall()[0][0]
    assert whole == polars.read_parquet(tmp_path)["requests"].sum()
    assert whole == pandas.read_parquet(tmp_path)["requests"].sum()
    assert whole == sum(group.requests for item in ITEMS for group in item.groups())
