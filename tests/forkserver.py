"""A process that has imported a command once, and becomes it by forking as often as asked.

Its arguments are the socket on which it is asked, and modules to import beside what every run does.
It imports nothing of the tests. `forked.py` starts it and talks to it; one message is one request,
answered by one number:

- `start`: a child that has the three descriptors as its standard streams, and is `python -m MODULE`
  from there on, up to the end that the interpreter makes of it. The answer is its process id.
- `wait`: the exit status of such a child, negative if a signal has killed it. Until then its
  process id is nobody else's.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import socket
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

# What a run imports before it reads its first record, whatever it is for.
PLAIN = ("blkiomon.commands.cli", "blkiomon.commands.run", "blkiomon.commands.decode")


def become(request: dict[str, Any], fds: Sequence[int]) -> None:
    """Makes this child what the request says it is."""
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.stdin = open(0, closefd=False)  # what the old one knows is of another file
    sys.argv = [request["module"], *request["start"]]


def serve(asked: socket.socket) -> str | None:
    """Answers requests until nobody makes any more; in a child, the module that it is to be."""
    while True:
        data, fds, _, _ = socket.recv_fds(asked, 1 << 20, 3)
        if not data:
            return None
        request = json.loads(data)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                asked.close()
                become(request, fds)
                return str(request["module"])
            for fd in fds:
                os.close(fd)
        asked.send(json.dumps(answer).encode())


if __name__ == "__main__":
    # The threads that pyarrow starts do nothing that a child needs.
    warnings.simplefilter("ignore", DeprecationWarning)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command itself does
    for module in (*PLAIN, *sys.argv[2:]):
        importlib.import_module(module)
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].array([0])  # the first one has it look for pandas
    gc.freeze()
    if wanted := serve(socket.socket(fileno=int(sys.argv[1]))):
        runpy.run_module(wanted, run_name="__main__", alter_sys=True)
