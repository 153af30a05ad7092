"""SysV queues: real ones, made and removed here."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import runner
import sysv_queues
from intervals import at
from quirks import ONE
from runner import until

from blkiomon.formats import stats_file
from blkiomon.formats.rendering import FormatOptions
from blkiomon.outputs import sysv
from blkiomon.outputs.catalog import OutputSettings
from blkiomon.outputs.destinations import Outputs, open_outputs
from blkiomon.outputs.message_queue import MessageQueueSink
from blkiomon.sources.devices import nameless

TYPE = 3
SIZE = 424


@pytest.fixture
def key(tmp_path: Path) -> Iterator[int]:
    """The key of tmp_path/key with id 1; a queue of that key is removed at the end."""
    path = tmp_path / "key"
    path.touch()
    found = sysv.ftok(os.fsencode(path), 1)
    yield found
    try:
        sysv_queues.remove(sysv.msgget(found))
    except FileNotFoundError:
        pass


def opened(tmp_path: Path, said: list[str], **options: Any) -> Outputs:
    queue = (str(tmp_path / "key"), 1, TYPE)
    return open_outputs(OutputSettings(destinations={"msg-queue": queue}, **options), said.append)


def sink_of(outputs: Outputs) -> MessageQueueSink:
    (sink,) = outputs.sinks
    assert isinstance(sink, MessageQueueSink)
    return sink


def received(queue: int) -> list[bytes]:
    """The bodies of all messages in a queue."""
    bodies = []
    while sysv.stat(queue)[0]:
        kind, body = sysv_queues.receive(queue, 1000)
        assert kind == TYPE
        bodies.append(body)
    return bodies


def test_key_is_made_as_by_ftok(tmp_path: Path) -> None:
    status = tmp_path.stat()
    low = (status.st_dev & 0xFF) << 16 | status.st_ino & 0xFFFF
    for project in (1, 0x7F, 257, -255):
        expected = (project & 0xFF) << 24 | low
        assert sysv.ftok(os.fsencode(tmp_path), project) == expected
    assert sysv.ftok(os.fsencode(tmp_path), 255) == (0xFF << 24 | low) - 2**32


def test_calls_raise_the_error_of_errno(tmp_path: Path, key: int) -> None:
    with pytest.raises(FileNotFoundError):
        sysv.ftok(os.fsencode(tmp_path / "missing"), 1)
    for missing in (key, 0):  # 0 would make a private queue
        with pytest.raises(FileNotFoundError):
            sysv.msgget(missing)


def test_every_device_is_one_message(tmp_path: Path, key: int, said: list[str]) -> None:
    queue = sysv_queues.create(key)
    outputs = opened(tmp_path, said)
    item = at(7, devices=3)
    outputs.put(item)
    outputs.close()
    assert received(queue) == list(stats_file.renderer("0.3")(item))
    assert not said and not outputs.failed


def test_recorded_trace_waits_for_a_missing_queue(tmp_path: Path, key: int) -> None:
    (tmp_path / "trace").write_bytes(ONE)
    queue_options = ("-Q", tmp_path / "key", "-q", "1", "-m", str(TYPE))
    arguments = ("-I", runner.LONG, *queue_options, "-b", tmp_path / "out", tmp_path / "trace")
    with runner.Running(*arguments).started() as process:
        runner.await_size(tmp_path / "out", 424)  # all has been read, and the run is about to end
        queue = sysv_queues.create(key)
        assert process.wait() == 0
        assert received(queue) == [(tmp_path / "out").read_bytes()]


def test_missing_queue_does_not_delay_the_end(tmp_path: Path, key: int, said: list[str]) -> None:
    outputs = opened(tmp_path, said)
    outputs.put(at(7))
    begin_s = time.monotonic()
    outputs.close(timeout_s=60)
    assert time.monotonic() - begin_s < 5
    assert sink_of(outputs).dropped_intervals == 1


def test_full_queue_drops_and_counts_without_waiting(
    tmp_path: Path, key: int, said: list[str]
) -> None:
    queue = sysv_queues.create(key)
    sysv_queues.set_limit(queue, 2 * SIZE)
    where = str(tmp_path / "key"), 1, TYPE
    sink = MessageQueueSink(where, FormatOptions(nameless), said.append, max_intervals=3)
    sink.start()
    for time_s in range(2):
        sink.put(at(time_s))
    until(lambda: sysv.stat(queue)[0] == 2)
    begin_s = time.monotonic()
    for time_s in range(2, 102):
        sink.put(at(time_s))
    assert time.monotonic() - begin_s < 5
    assert sink.dropped_intervals in (96, 97)  # one is being tried, three wait
    for _ in range(2):  # with room again, it sends without being told
        assert sysv_queues.receive(queue, 1000)[0] == TYPE
    until(lambda: sysv.stat(queue)[0] == 2)
    sink.close(timeout_s=0.2)
    assert time.monotonic() - begin_s < 10
    assert sink.dropped_intervals == 102 - 2 - 2  # all but those received and those in the queue
    assert len(received(queue)) == 2
    assert not sink._thread.is_alive()


def test_removed_queue_is_found_again(tmp_path: Path, key: int, said: list[str]) -> None:
    first = sysv_queues.create(key)
    outputs = opened(tmp_path, said)
    outputs.put(at(1))
    until(lambda: sysv.stat(first)[0] == 1)
    sysv_queues.remove(first)
    outputs.put(at(2))
    second = sysv_queues.create(key)
    outputs.put(at(3))
    until(lambda: sysv.stat(second)[0] == 2)
    outputs.close()
    assert len(received(second)) == 2
    assert not said and not outputs.failed


def test_queue_too_small_for_a_message_is_reported(
    tmp_path: Path, key: int, said: list[str]
) -> None:
    sysv_queues.set_limit(sysv_queues.create(key), SIZE - 1)
    outputs = opened(tmp_path, said)
    outputs.put(at(1))
    until(lambda: outputs.failed)
    outputs.close()
    name = f"message queue {tmp_path / 'key'} (id 1)"
    assert said[0] == (
        f"cannot write to {name}: it holds 423 bytes, and a message takes 424 "
        "(nothing more is written there)"
    )


def test_message_too_long_for_the_system_is_reported(
    tmp_path: Path, key: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sysv_queues.create(key)
    most = int(Path("/proc/sys/kernel/msgmax").read_text())
    where = str(tmp_path / "key"), 1, TYPE
    sink = MessageQueueSink(where, FormatOptions(nameless), said.append)
    monkeypatch.setattr(sink, "_render", lambda item: iter([bytes(most + 1)]))
    sink.start()
    sink.put(at(1))
    sink.close()
    assert sink.failed and sink.dropped_intervals == 1
    assert "is longer than kernel.msgmax (nothing more is written there)" in said[0]


def test_calls_on_a_removed_queue_raise_an_error(key: int) -> None:
    queue = sysv_queues.create(key)
    sysv_queues.remove(queue)
    for call in (
        lambda: sysv.stat(queue),
        lambda: sysv.msgsnd(queue, TYPE, b"body"),
    ):
        with pytest.raises(OSError) as gone:
            call()
        assert gone.value.errno in (errno.EIDRM, errno.EINVAL)
