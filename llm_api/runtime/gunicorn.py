"""gunicorn's workers and hooks, as gunicorn.conf.py sets them: what gunicorn itself would do wrong for this service."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import resource
import select
import selectors
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from gunicorn.workers.gthread import _DEFER, ThreadWorker

from ..settings import Settings
from .deadline import look

# What a thread waits for a request that may follow at once, before the worker's loop does.
MORE_MILLISECONDS = 10
# Connections that ask nothing now, to each thread; so many of them may be kept between requests, the rest is for those
# that have asked nothing yet.
IDLE, KEPT = 3, 2
# What a thread may have open, and the rest of a worker.
DESCRIPTORS, OTHER_DESCRIPTORS = 3, 200
# What a client that has connected has to ask, so that silent ones don't keep others out; kept ones have `keepalive`.
FIRST_SECONDS = 5.0
# As gunicorn's threads have it.
MAX_UNREAD_BYTES = 65_536
# What is read of a refused body before its connection is closed: a client that still sends may lose its answer.
LINGER_SECONDS, MAX_LINGER_BYTES = 0.5, 2**25
METRICS, OWNER = "PROMETHEUS_MULTIPROC_DIR", "LLM_API_METRICS_OWNER"


class _Threads(ThreadPoolExecutor):
    """Where the system starts no more threads, work waits for one of those there are; gunicorn's worker would end."""

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


class GThread(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's threads, with connections that hold one hardly longer than an answer takes, and are closed in it.

    `max_idle` is how many connections it may have that ask nothing now.
    """

    max_idle = 0

    @property
    def busy_conns(self) -> int:
        """How many connections ask something now."""
        return int(self.nr_conns) - len(self.keepalived_conns) - len(self.pending_conns)

    @property
    def max_keepalived(self) -> int:
        """How many connections it keeps between requests."""
        return self.max_idle * KEPT // IDLE

    @max_keepalived.setter
    def max_keepalived(self, _: int) -> None:
        """Ignore the number that gunicorn sets."""

    @property
    def worker_connections(self) -> int:
        """How many connections it has when it takes no more: those that wait for a request have no thread."""
        return int(self.cfg.threads) + min(len(self.keepalived_conns) + len(self.pending_conns), self.max_idle)

    @worker_connections.setter
    def worker_connections(self, _: int) -> None:
        """Ignore the number that gunicorn sets."""

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Return what requests run in."""
        return _Threads(self.cfg.threads)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Let requests end, and end at the second Ctrl-C.

        gunicorn's own raises SystemExit wherever the worker is: a traceback, where that is Python's own end already.
        """
        if sig == signal.SIGINT and not self.alive:
            os._exit(0)
        self.handle_exit(sig, frame)
        time.sleep(0.1)  # SIGQUIT follows SIGINT, and would kill where Python has ended

    def handle(self, conn: Any) -> Any:
        """Answer a request and those that follow at once, and close the connection where it is not kept.

        gunicorn closes in the worker's one loop, and waits there, two seconds at most, until the client has closed its
        end: 24 clients that had their answers and did not close held up the next one for 42 s. And it waits 5 s for a
        first request, in a thread: 24 that said nothing held it up for 15 s.
        """
        conn.wait_for_data = lambda _, sock=conn.sock: has_more(sock)
        kept = super().handle(conn)
        # Otherwise each request goes through the worker's one loop, twice: a client that asks one thing after the
        # other got half as much done.
        while kept is True and self.busy_conns < self.cfg.threads and asks_again(conn):
            kept = super().handle(conn)
        if kept is False:
            # Only a client that may still be sending is waited for: its answer would be lost.
            with suppress(OSError):
                conn.close(graceful=is_sending(conn.parser))
            conn.close = lambda graceful=False: None
        return kept

    def finish_request(self, conn: Any, future: Any) -> None:
        """Do what is left when a thread is done with a connection.

        One whose first request is still on its way would be closed by gunicorn's own in a worker that stops, and have
        as much time as a kept one otherwise.
        """
        if future.exception() or future.result() is not _DEFER:
            super().finish_request(conn, future)
            return
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + FIRST_SECONDS
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def murder_keepalived(self, force: bool = False) -> None:
        """Close what was idle for too long, unless it asks again just now: the loop will see it, and it be answered."""
        now = time.monotonic()
        for conn in takewhile(lambda conn: conn.timeout <= now, self.keepalived_conns):
            if look([conn.sock.fileno()], select.POLLIN):
                conn.timeout = now + FIRST_SECONDS
        super().murder_keepalived(force)

    def accept(self, listener: Any) -> None:
        """Take a connection, or leave it for later where there are no descriptors left: gunicorn's own would end."""
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            time.sleep(0.05)  # the loop would be told of it again and again

    def set_accept_enabled(self, enabled: bool) -> None:
        """Let a worker that stops take what has connected already, and then close the door.

        gunicorn's own keeps it open until its last request has ended: a client that connects meanwhile waits for
        nobody, then is cut off, where nginx would have gone to another machine at once.
        """
        super().set_accept_enabled(enabled)
        if self.alive:
            return
        super().set_accept_enabled(False)  # it may be told to stop while it begins
        listeners = list(self.sockets)
        self.sockets.clear()
        for listener in listeners:
            before = -1
            while before < self.nr_conns < self.worker_connections:
                before = self.nr_conns
                self.accept(listener)
            listener.close()


def asks_again(conn: Any) -> bool:
    """Whether another request is there already, or comes at once."""
    return bool(conn.parser.unreader.buf.getvalue()) or has_more(conn.sock)


def has_more(sock: Any) -> bool:
    """Whether more is there, or comes within the time that a thread may be held for it."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(MORE_MILLISECONDS))


def is_sending(parser: Any) -> bool:
    """Whether there is more of a connection's request than was read."""
    try:
        return not parser.finish_body(time.monotonic() + LINGER_SECONDS, MAX_LINGER_BYTES)
    except Exception:
        return True


def make_metrics_folder() -> None:
    """Make the folder in which the workers' numbers for /metrics meet, unless PROMETHEUS_MULTIPROC_DIR names one.

    It must not share a disk that may fill up: a process that can't write there dies. There is one for each master:
    gunicorn.conf.py is read again at a reload, and by the new master at an upgrade.
    """
    if METRICS in os.environ and os.environ.get(OWNER, str(os.getpid())) == str(os.getpid()):
        return
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  (mkdtemp's folder is our own)
    os.environ[METRICS] = tempfile.mkdtemp(prefix="llm-api-metrics-", dir=memory)
    os.environ[OWNER] = str(os.getpid())
    atexit.register(_remove_metrics_folder)


def _remove_metrics_folder() -> None:
    if os.environ[OWNER] == str(os.getpid()):  # the workers have this function too
        shutil.rmtree(os.environ[METRICS], ignore_errors=True)


def clear_metrics() -> None:
    """Remove the numbers of an earlier run."""
    for file in Path(os.environ[METRICS]).glob("*.db"):
        file.unlink()


def allow_descriptors(threads: int) -> tuple[int, int]:
    """Raise the limit of open files, usually 1,024, to what a worker needs, if it may be.

    Return how many threads there are descriptors for, and how many connections may ask nothing. A request that waits
    has two, its client's and its provider's; as many providers' may be kept, and clients' that ask nothing now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Linux has no hard limit of infinity here (setrlimit(2), fs.nr_open)
    limit = max(soft, min((DESCRIPTORS + IDLE) * threads + OTHER_DESCRIPTORS, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    left = max(DESCRIPTORS, limit - OTHER_DESCRIPTORS)
    threads = min(threads, left // DESCRIPTORS)
    return threads, min(IDLE * threads, left - DESCRIPTORS * threads)


def effective(settings: Settings, server: Any, sockets: Iterable[Any]) -> Settings:
    """Return `settings` as they are where gunicorn's command line, or who opened its `sockets`, says otherwise.

    Of several addresses it is one that others reach, where there is one.
    """
    cfg = server.cfg
    binds = [settings.bind]
    if cfg.bind != binds or server.systemd:
        binds = [str(sock).rpartition("//")[2] for sock in sockets] or cfg.bind
    return max((replace(settings, bind=bind, threads=cfg.threads) for bind in binds), key=lambda each: each.is_public)


def announce(settings: Settings, log: Any) -> None:
    """Say at the start which backends will answer, and whom."""
    chain = ", then ".join(dict.fromkeys((settings.llm_backend, *settings.llm_fallback)))
    log.info("Answers come from %s; log: %s", chain, settings.log_file)
    if settings.is_public and not settings.api_keys:
        log.warning("EVERYBODY WHO REACHES %s MAY USE THIS SERVICE: set API_KEYS", settings.bind)
    if settings.operators and not settings.api_keys:
        log.warning("OPERATORS are names of API_KEYS, and there are none: everybody sees everything")


def reload(server: Any) -> None:
    """Reload as gunicorn does, but only what can be: its own ends with the workers, where a setting is wrong."""
    before = server.cfg
    try:
        server.app.reload()  # for trial
        if server.app.cfg.address != before.address:
            sys.exit("BIND needs a restart")
    except SystemExit as error:
        server.app.cfg = before
        why = error.code if isinstance(error.code, str) else "the lines above say why"
        server.log.error("Not reloaded, the workers go on as before: %s", why)
    else:
        type(server).reload(server)


def share_memory() -> None:
    """Let the workers share what the master has: a collection writes into each object, which would unshare it."""
    gc.collect()
    gc.freeze()


def pre_request(worker: Any, request: Any) -> None:
    """Keep no connection where that may take a place from others, or where a long body was left unread.

    A request may be refused before its body is read, and the worker that keeps the connection must read that. The
    answer's head tells the client, so gunicorn asks when it writes that.
    """
    headers = dict(request.headers)
    if int(headers.get("CONTENT-LENGTH", 0)) > MAX_UNREAD_BYTES or "TRANSFER-ENCODING" in headers:
        request.should_close = partial(_closes, request)
    if worker.busy_conns >= worker.cfg.threads:
        request.force_close()


def _closes(request: Any) -> bool:
    reader = request.body.reader
    # gunicorn's reader of chunks has no parser once it has read the last; the other one has what is left of the length
    is_left = reader.parser if hasattr(reader, "parser") else reader.length > MAX_UNREAD_BYTES
    return bool(is_left or type(request).should_close(request))


def child_exit(server: Any, worker: Any) -> None:
    """Take a dead worker's gauges away: what it was doing is over."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
