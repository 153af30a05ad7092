"""Traces a block device: records of version 7, or of version 8 (Linux 6.19 and later).

usage: trace.py VERSION DEVICE NAME, until SIGINT; writes NAME.blktrace.0, .1, ...

blktrace asks for version 7, in which zone operations are missing, and does not say when it has
begun.  The records have to fit into the kernel's buffers: a reader that takes them while the kernel
writes can see a record half written.
"""

import fcntl
import os
import select
import signal
import struct
import sys
from pathlib import Path

# struct blk_user_trace_setup and blk_user_trace_setup2, with the numbers of their ioctls.
SETUPS = {7: (struct.Struct("@32sHIIQQIxxxx"), 115), 8: (struct.Struct("=64sQIIQQII88x"), 142)}
BLKTRACESTART, BLKTRACESTOP, BLKTRACETEARDOWN = 0x1274, 0x1275, 0x1276
QUEUE, REQUEUE, ISSUE, COMPLETE, NOTIFY = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 10
BUFFER_BYTES, BUFFERS = 512 << 10, 4


def main(version: str, device: str, name: str) -> None:
    layout, number = SETUPS[int(version)]
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGINT, lambda *_: None)
    fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
    mask = QUEUE | REQUEUE | ISSUE | COMPLETE | NOTIFY
    fields = [b"", mask, BUFFER_BYTES, BUFFERS, 0, 0, 0, 0]
    setup = bytearray(layout.pack(*fields[: 7 + (version == "8")]))
    fcntl.ioctl(fd, 0xC0000000 | layout.size << 16 | 0x12 << 8 | number, setup)
    directory = Path("/sys/kernel/debug/block", layout.unpack(setup)[0].rstrip(b"\0").decode())
    relays = [os.open(directory / f"trace{n}", os.O_RDONLY) for n in range(os.cpu_count() or 1)]
    try:
        fcntl.ioctl(fd, BLKTRACESTART)
        append(relays, name)  # the time of day, which tells that tracing has begun
        select.select([woken], [], [])
        fcntl.ioctl(fd, BLKTRACESTOP)
        append(relays, name)
        dropped = int((directory / "dropped").read_text())
    finally:
        fcntl.ioctl(fd, BLKTRACETEARDOWN)
    if dropped:
        sys.exit(f"trace.py: the kernel dropped {dropped} records")


def append(relays: list[int], name: str) -> None:
    """Appends what the kernel holds for each CPU to that CPU's file."""
    for cpu, relay in enumerate(relays):
        with open(f"{name}.blktrace.{cpu}", "ab") as out:
            while data := os.read(relay, BUFFER_BYTES):
                out.write(data)


main(*sys.argv[1:])
