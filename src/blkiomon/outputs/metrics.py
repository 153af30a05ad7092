"""The sinks for metrics: an HTTP server, and a file for node_exporter's textfile collector."""

from __future__ import annotations

import errno
import gzip
import math
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from blkiomon.errors import OutputError
from blkiomon.formats import protobuf
from blkiomon.formats.openmetrics import Metrics
from blkiomon.formats.rendering import FormatOptions
from blkiomon.interval.value import Interval
from blkiomon.outputs.opening import write_whole
from blkiomon.outputs.sink import Item, Report, Sink, Undelivered

MAX_CLIENTS = 16
"""Connections at a time; for one more, the oldest is closed."""

REQUEST_S = 10.0
"""A connection is closed at this age, even if it is not answered yet."""

RESERVED_FDS = 32
"""Descriptors that connections leave free: to reopen or replace a file takes three."""


class TextfileSink(Sink):
    """``--textfile``: a file that is replaced after each interval; its metrics are complete.

    Args:
        path: as the user gave it.
        options: for all formats.
        report, sink_options: as for ``Sink``.

    Raises:
        MissingLibrary: see ``Metrics``.
        OSError: it cannot be written.
    """

    def __init__(
        self, path: str, options: FormatOptions, report: Report, **sink_options: Any
    ) -> None:
        super().__init__(path, report, **sink_options)
        self._path = Path(path)
        self._metrics = Metrics(options.name_of, info_of=options.info_of, expected=options.expected)
        if self._path.exists() and not self._path.is_file():
            raise OSError(0, "it is not a regular file")
        self._replace(self._metrics.text()[0])

    def _deliver(self, item: Item) -> None:
        assert isinstance(item, Interval)
        with self._rendering():
            self._metrics.add(item)
            text = self._metrics.text()[0]
        try:
            self._replace(text)
        except OSError as error:
            # Metrics are totals: the next file that is written contains everything.
            if not self.failed:
                self._complain(error, "the next attempt is after the next interval")
            raise Undelivered from error

    def _replace(self, text: bytes) -> None:
        write_whole(self._path, lambda file: file.write(text), self._policy)


class HttpSink(Sink):
    """``--openmetrics``: an HTTP server that answers with the latest metrics.

    Args:
        address: host, empty for loopback, and port, 0 for any.
        options: for all formats.
        report, sink_options: as for ``Sink``.

    Raises:
        MissingLibrary: see ``Metrics``.
        OutputError: it cannot listen there.
    """

    def __init__(
        self, address: tuple[str, int], options: FormatOptions, report: Report, **sink_options: Any
    ) -> None:
        name = http_name(address)
        super().__init__(name, report, **sink_options)
        self._metrics = Metrics(options.name_of, info_of=options.info_of, expected=options.expected)
        try:
            self._server = _listen(address, self._metrics)
        except OSError as error:
            raise OutputError(f"could not listen on {name}: {error.strerror}") from error
        if not address[1]:
            report(f"metrics are at http://{http_name(self._server.server_address)}/metrics")
        self._server_thread = threading.Thread(target=self._serve, name="metrics", daemon=True)

    def start(self) -> None:
        self._server_thread.start()
        super().start()

    def _serve(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._server.serve_forever(poll_interval=0.05)

    def _deliver(self, item: Item) -> None:
        assert isinstance(item, Interval)
        with self._rendering():
            self._metrics.add(item)

    def _release(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def http_name(address: Sequence[Any]) -> str:
    """``HOST:PORT`` of an address."""
    host = address[0] or "127.0.0.1"
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"


class _Server(ThreadingHTTPServer):
    """The standard library's server with a thread per connection, bounded in number and age.

    If there are too many, a new connection closes the oldest one. That has had time for its
    request, which takes milliseconds.

    Attributes:
        connections: open connections, oldest first, and when they were opened; guarded by
            ``changed``.

    Raises:
        OSError: it cannot listen there, or no descriptors are left for connections.
    """

    block_on_close = False
    request_queue_size = 128  # waiting connections take no descriptors

    def __init__(
        self, family: socket.AddressFamily, where: Any, handler: type[BaseHTTPRequestHandler]
    ) -> None:
        self.address_family = family
        self.connections: dict[socket.socket, float] = {}
        self.changed = threading.Condition()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._fds = math.inf if limit == resource.RLIM_INFINITY else limit - RESERVED_FDS
        super().__init__(where, handler)
        if self.fileno() + 1 >= self._fds:
            self.server_close()
            raise OSError(
                errno.EMFILE,
                f"the limit of {limit} open files leaves none for connections: see ulimit -n",
            )

    def server_bind(self) -> None:
        # Not the standard library's method, which asks DNS for the host's name.
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; close the oldest one if there are too many."""
        with self.changed:
            while len(self.connections) >= MAX_CLIENTS or (
                self.connections and self._next_fd() >= self._fds
            ):
                oldest = next(iter(self.connections))
                _end(oldest)
                while oldest in self.connections:
                    self.changed.wait()
        return super().get_request()

    def _next_fd(self) -> float:
        """The number of the next descriptor: the smallest that is free."""
        try:
            fd = os.dup(self.fileno())
        except OSError:
            return math.inf
        os.close(fd)
        return fd

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return bool(request.fileno() < self._fds)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.changed:
            self.connections[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self.changed:
            self.connections.pop(request, None)
            self.changed.notify_all()

    def service_actions(self) -> None:
        """Called several times a second: close old connections."""
        old_s = time.monotonic() - REQUEST_S
        with self.changed:
            for connection, since_s in self.connections.items():
                if since_s < old_s:
                    _end(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not report clients that disconnect."""


def _end(connection: socket.socket) -> None:
    """Shut a connection down; its thread then closes it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _listen(address: tuple[str, int], metrics: Metrics) -> _Server:
    host, port = address
    try:
        ((family, _, _, _, where), *_) = socket.getaddrinfo(
            host or "127.0.0.1", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError as error:
        raise OSError(errno.EINVAL, "a host cannot have that name") from error

    from prometheus_client.exposition import gzip_accepted

    class Handler(BaseHTTPRequestHandler):
        server_version = "blkiomon"
        sys_version = ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in ("/metrics", "/"):
                self.send_error(404, "metrics are at /metrics")
                return
            accept = self.headers.get("Accept", "")
            if protobuf.is_preferred(accept) and protobuf.family_class():
                text, content_type = protobuf.encode(metrics.families()), protobuf.CONTENT_TYPE
            else:
                text, content_type = metrics.text(accept)
            is_packed = gzip_accepted(self.headers.get("Accept-Encoding", ""))
            if is_packed:
                text = gzip.compress(text, compresslevel=1)
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            if is_packed:
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        do_HEAD = do_GET  # for health probes

        def log_message(self, format: str, *args: Any) -> None:
            """Do not log requests."""

    return _Server(family, where, Handler)
