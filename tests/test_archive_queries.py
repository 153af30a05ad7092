"""Percentiles of a dataset by DuckDB, polars, pandas, pyarrow and Spark equal the library's."""

from __future__ import annotations

import datetime
import itertools
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from test_archive import DATA, over_midnight

import blkiomon
from blkiomon.commands.archive import summarize
from blkiomon.commands.archive.queries import SQL, percentiles
from blkiomon.formats.units import device_text
from blkiomon.interval.distribution import Distribution

PERCENTS = (1, 50, 99, 99.9, 99.99, 100)
TRACES = {
    "web1/a.bin": (DATA / "loop-phases-dc.bin").read_bytes()[: 48 * 20_000],
    "web2/b.bin": (DATA / "loop-ext4-all.bin").read_bytes(),
    "web2/c.bin": (DATA / "loop-multi-dc.bin").read_bytes()[: 48 * 15_000],
    "db/late.bin": over_midnight(seconds=3),
}
QUANTITIES = {"d2c": "d2c_ns", "size": "size_bytes", "q2d": "q2d_ns", "q2c": "q2c_ns"}
Key = tuple[Any, ...]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("queries")
    for name, data in TRACES.items():
        path = root / "traces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    summarize(f"{root}/traces/*/*", interval=0.5, workers=0, dataset=str(root / "ds"))
    return root


def by_library(root: Path, quantity: str, keys: tuple[str, ...]) -> dict[Key, list[int]]:
    """Count and percentiles of each group, by merging distributions."""
    found: dict[Key, list[Distribution]] = {}
    for name in TRACES:
        for interval in blkiomon.intervals(root / "traces" / name, 0.5):
            start = None
            if interval.anchored:
                utc = datetime.datetime.fromtimestamp(interval.start_ns // 10**9, datetime.UTC)
                start = utc.replace(minute=0, second=0)
            for group in interval.groups():
                of = getattr(group, QUANTITIES[quantity])
                if group.op is None or group.device is None or of is None or not of.count:
                    continue
                known = {"host": name.partition("/")[0], "op": group.op, "hour": start}
                known["device"] = device_text(group.device)
                found.setdefault(tuple(known[key] for key in keys), []).append(of)
    merged = {key: Distribution().merge(*some) for key, some in found.items()}
    return {
        key: [of.count, *(of.percentile(percent) or 0 for percent in PERCENTS)]
        for key, of in merged.items()
    }


def by_duckdb(root: Path, quantity: str, keys: tuple[str, ...]) -> dict[Key, list[int]]:
    connection = duckdb.connect()
    connection.execute("SET timezone = 'UTC'")
    connection.execute((root / "ds/blkiomon.sql").read_text())
    connection.execute(
        "CREATE VIEW requests AS SELECT *, date_trunc('hour', start) AS hour "
        f"FROM read_parquet('{root}/ds/requests/*/*.parquet')"
    )
    key = f"{{{', '.join(f'{key}: {key}' for key in keys)}}}" if keys else "true"
    found: dict[Key, list[int]] = {}
    for percent in PERCENTS:
        query = f"FROM {quantity}_percentile('requests', {key}, {percent})"
        for of, count, value in connection.execute(query).fetchall():
            name = tuple(of[key] for key in keys) if keys else ()
            found.setdefault(name, [count]).append(value)
    return found


def table(root: Path) -> pa.Table:
    rows = pq.read_table(root / "ds/requests")
    return rows.append_column("hour", pa.compute.floor_temporal(rows["start"], unit="hour"))


def by_polars(root: Path, quantity: str, keys: tuple[str, ...]) -> dict[Key, list[int]]:
    frame = polars.read_parquet(f"{root}/ds/requests/*/*.parquet")
    frame = frame.with_columns(hour=polars.col("start").dt.truncate("1h"))
    found = percentiles(frame, keys, PERCENTS, quantity)
    assert isinstance(found, polars.DataFrame)
    return {row[: len(keys)]: list(row[len(keys) :]) for row in found.rows()}


def by_pandas(root: Path, quantity: str, keys: tuple[str, ...]) -> dict[Key, list[int]]:
    import pandas

    found = percentiles(table(root).to_pandas(), keys, PERCENTS, quantity)
    assert isinstance(found, pandas.DataFrame)
    rows = found.astype(object).where(found.notna(), None).values.tolist()
    return {tuple(row[: len(keys)]): row[len(keys) :] for row in rows}


def by_pyarrow(root: Path, quantity: str, keys: tuple[str, ...]) -> dict[Key, list[int]]:
    found = percentiles(table(root), keys, PERCENTS, quantity)
    rows = [tuple(row.values()) for row in found.to_pylist()]
    return {row[: len(keys)]: list(row[len(keys) :]) for row in rows}


CASES: list[tuple[str, tuple[str, ...]]] = [
    *itertools.product(QUANTITIES, [("host", "device", "op"), ()]),
    *(("d2c", keys) for keys in [("host",), ("op", "hour"), ("host", "hour"), ("device",)]),
]


@pytest.mark.parametrize("engine", [by_duckdb, by_polars, by_pandas, by_pyarrow])
@pytest.mark.parametrize(("quantity", "keys"), CASES)
def test_percentiles_equal_those_of_the_library(
    engine: Any, quantity: str, keys: tuple[str, ...], dataset: Path
) -> None:
    expected = by_library(dataset, quantity, keys)
    assert expected
    assert engine(dataset, quantity, keys) == expected


@pytest.mark.parametrize("percent", [0.99, 0, -5, 101])
def test_duckdb_refuses_what_is_no_percentage(percent: float, dataset: Path) -> None:
    connection = duckdb.connect()
    connection.execute((dataset / "ds/blkiomon.sql").read_text())
    connection.execute(
        f"CREATE VIEW requests AS FROM read_parquet('{dataset}/ds/requests/*/*.parquet')"
    )
    with pytest.raises(duckdb.Error, match="percent must be from 1 to 100: 99 is the p99"):
        connection.execute(f"FROM d2c_percentile('requests', host, {percent})").fetchall()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Spark leaves sockets open
def test_spark_gives_the_percentiles_of_the_library(dataset: Path) -> None:
    sql = pytest.importorskip(
        "pyspark.sql",
        reason="Spark is not installed (pip install 'pyspark<4'; apt-get install "
        "default-jre-headless)",
    )
    builder = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    for name, value in SPARK.items():
        builder = builder.config(name, value)
    with builder.getOrCreate() as spark:
        frame = spark.read.parquet(str(dataset / "ds/requests"))
        frame.selectExpr("*", "date_trunc('hour', start) AS hour").createTempView("requests")
        for quantity, keys in CASES[::2]:  # a job takes seconds
            found: dict[Key, list[int]] = {}
            for *of, count, _, value in spark.sql(by_spark(quantity, keys)).collect():
                found.setdefault(tuple(map(in_utc, of)), [count]).append(value)
            assert found == by_library(dataset, quantity, keys), (quantity, keys)


SPARK = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "1",
}


def by_spark(quantity: str, keys: tuple[str, ...]) -> str:
    """The question in Spark's SQL: a row for each group and percentage."""
    unit = "bytes" if quantity == "size" else "ns"
    columns = "".join(f"{key}, " for key in keys)
    group = f"PARTITION BY {', '.join(keys or ['true'])}"
    percents = ", ".join(f"({percent})" for percent in PERCENTS)
    return f"""
        WITH listed AS (
            SELECT {columns} bin, n,
                   {quantity}_min_{unit} AS least, {quantity}_max_{unit} AS greatest
            FROM requests
            LATERAL VIEW inline(arrays_zip({quantity}_bin, {quantity}_count)) AS bin, n
        ),
        summed AS (
            SELECT {columns} bin, sum(n) AS n, min(least) AS least, max(greatest) AS greatest
            FROM listed GROUP BY {columns} bin
        ),
        running AS (
            SELECT {columns} sum(n) OVER ({group}) AS total,
                   sum(n) OVER ({group} ORDER BY bin) AS upto,
                   min(least) OVER ({group}) AS least, max(greatest) OVER ({group}) AS greatest,
                   bin, greatest(bin div 64 - 1, 0) AS shift
            FROM summed
        ),
        ranked AS (
            SELECT *, ceil(percent * total / 100) AS rank,
                   shiftleft(bin - 64 * shift, int(shift)) + (shiftleft(1L, int(shift)) - 1) div 2
                   AS middle
            FROM running CROSS JOIN VALUES {percents} AS percents(percent)
        )
        SELECT {columns} total, percent,
               CASE WHEN rank = 1 THEN min(least) WHEN rank = total THEN max(greatest)
                    ELSE greatest(least(min_by(middle, upto), max(greatest)), min(least))
               END AS value
        FROM ranked WHERE upto >= rank GROUP BY {columns} total, percent, rank ORDER BY percent
    """


def in_utc(value: Any) -> Any:
    """Spark returns times in this machine's zone, without stating it."""
    return value.astimezone(datetime.UTC) if isinstance(value, datetime.datetime) else value


def test_wrong_questions_are_refused(dataset: Path) -> None:
    with pytest.raises(ValueError, match="unknown quantity 'c2d'; use d2c, size, q2d, q2c"):
        percentiles(table(dataset), "host", quantity="c2d")
    with pytest.raises(ValueError, match="from 1 to 100"):
        percentiles(table(dataset), "host", [0.99])


def test_groups_without_requests_are_left_out(dataset: Path) -> None:
    rows = table(dataset)
    found = percentiles(rows.slice(0, 0), "host")
    assert found.num_rows == 0 and found.column_names[:3] == ["host", "count", "p50"]
    assert percentiles(rows.slice(0, 0)).num_rows == 0


def test_dataset_has_the_macros(dataset: Path) -> None:
    assert (dataset / "ds/blkiomon.sql").read_text() == SQL


def test_days_are_folders_for_readers(dataset: Path) -> None:
    rows = pyarrow.dataset.dataset(dataset / "ds/requests", partitioning="hive").to_table()
    assert set(rows["day"].to_pylist()) == {"unknown", "2026-11-22", "2026-11-23"}
