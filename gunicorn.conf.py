"""How gunicorn runs the service: gunicorn wsgi:app reads this file by itself."""

import atexit
import errno
import gc
import math
import os
import resource
import select
import selectors
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from gunicorn.http import get_parser
from gunicorn.util import close_graceful
from gunicorn.workers.gthread import _DEFER, ThreadWorker

# What a thread waits for a request that may follow at once, before the worker's loop does.
MORE_MILLISECONDS = 10
# Connections that ask nothing now, to each thread.
IDLE = 3
# As gunicorn's threads have it.
MAX_UNREAD_BYTES = 65_536

here = Path(__file__).parent
sys.path.insert(0, str(here))


def remove_metrics() -> None:
    """Leave nothing behind when the master ends; its workers have this function too."""
    if os.environ[OWNER] == str(os.getpid()):
        shutil.rmtree(os.environ[METRICS], ignore_errors=True)


# The workers' numbers for /metrics meet in files, which must not share a disk that may fill up: a process that can't
# write to them dies. Made before prometheus_client is imported, which looks for it once, and once for each master:
# this file is read again at a reload, and by the new one at an upgrade.
METRICS, OWNER = "PROMETHEUS_MULTIPROC_DIR", "LLM_API_METRICS_OWNER"
if METRICS not in os.environ or os.environ.get(OWNER, str(os.getpid())) != str(os.getpid()):
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  (mkdtemp's folder is our own)
    os.environ[METRICS] = tempfile.mkdtemp(prefix="llm-api-metrics-", dir=memory)
    os.environ[OWNER] = str(os.getpid())
    atexit.register(remove_metrics)

# found only after the lines above
from llm_api import LLMAPI, create_app
from llm_api.errors import ConfigError
from llm_api.settings import Settings

try:
    settings = Settings.load(here / ".env")
except ConfigError as error:
    sys.exit(f"llm_api: {error}")

# A request that waits has two descriptors, its client's and its provider's; as many providers' may be kept, and
# clients' that ask nothing now: where the limit is too low, those are fewer. It is usually 1,024.
max_idle = IDLE * settings.threads
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
wanted = 3 * settings.threads + max_idle + 200
if soft < wanted:
    limit = min(wanted, hard)  # Linux has no hard limit of infinity here (setrlimit(2), fs.nr_open)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    max_idle = max(0, max_idle - (wanted - limit))

if settings.worker_class == "gevent":
    try:
        from gevent import monkey
    except ImportError:
        sys.exit("llm_api: WORKER_CLASS=gevent needs a package: pip install gevent")
    monkey.patch_all()
# Made here and thrown away, so that the workers share the memory of all that it imports; it opens nothing.
try:
    create_app(settings)
except ConfigError as error:
    sys.exit(f"llm_api: {error}")


def on_starting(server: Any) -> None:
    """Begin with no numbers of an earlier run, and with the workers of this file, which count their connections."""
    if server.cfg.worker_class is not worker_class:
        sys.exit("llm_api: set WORKER_CLASS instead of -k, --worker-class: this file mends gunicorn's workers")
    for file in Path(os.environ[METRICS]).glob("*.db"):
        file.unlink()


def when_ready(server: Any) -> None:
    """Say at the start who will answer, and whom."""
    chain = ", then ".join(dict.fromkeys((settings.llm_backend, *settings.llm_fallback)))
    server.log.info("Answers come from %s; log: %s", chain, settings.log_file)
    if settings.is_public and not settings.api_keys:
        server.log.warning("EVERYBODY WHO REACHES %s MAY USE THIS SERVICE: set API_KEYS", settings.bind)
    # A collection writes into each object, which would unshare the memory that the workers have from here.
    gc.collect()
    gc.freeze()


def post_worker_init(worker: Any) -> None:
    """Load a local model before the first request comes."""
    LLMAPI.begin(worker.wsgi)


class GThread(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's threads, with connections that hold one hardly longer than an answer takes, and are closed in it."""

    @property
    def worker_connections(self) -> int:
        """How many connections it has when it takes no more: those that wait for a request have no thread."""
        return int(self.cfg.threads) + min(len(self.keepalived_conns) + len(self.pending_conns), max_idle)

    @worker_connections.setter
    def worker_connections(self, _: int) -> None:
        """Ignore the number that gunicorn sets."""

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
        while kept is True and self.nr_conns < self.cfg.threads and asks_again(conn):
            kept = super().handle(conn)
        if kept is False:
            # Only who may still be sending is waited for: its answer would be lost.
            with suppress(OSError):
                conn.close(graceful=is_sending(conn.parser))
            conn.close = lambda graceful=False: None
        return kept

    def finish_request(self, conn: Any, future: Any) -> None:
        """Do what is left when a thread is done with a connection.

        In a worker that stops, gunicorn's own would close one whose first request is still on its way.
        """
        if self.alive or future.exception() or future.result() is not _DEFER:
            super().finish_request(conn, future)
            return
        conn.sock.setblocking(False)
        conn.set_timeout()
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

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

        gunicorn's own keeps it open until its last request has ended: who connects meanwhile waits for nobody, then is
        cut off, where nginx would have gone to another machine at once.
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


if settings.worker_class == "gevent":
    from gunicorn.workers.ggevent import GeventWorker

    class GEvent(GeventWorker):  # type: ignore[misc]  # as above
        """gunicorn's greenlets, which know how many connections there are."""

        nr_conns = 0

        def handle(self, *connection: Any) -> None:
            """Answer all requests of a connection."""
            self.nr_conns += 1
            try:
                super().handle(*connection)
            finally:
                self.nr_conns -= 1


def pre_request(worker: Any, request: Any) -> None:
    """Keep no connection where that may take a place from others, or where a body may be left that has no end.

    A request may be refused before its body is read, and who keeps the connection must read that. The answer's head
    tells the client, so it is too late to decide this after it.
    """
    headers = dict(request.headers)
    is_long = int(headers.get("CONTENT-LENGTH", 0)) > MAX_UNREAD_BYTES or "TRANSFER-ENCODING" in headers
    if is_long or worker.nr_conns >= worker.cfg.threads:
        request.force_close()


def post_request(worker: Any, request: Any, environ: Any, response: Any) -> None:
    """Let who may still be sending have its answer under gevent too: gunicorn would break that connection off."""
    refused = settings.worker_class == "gevent" and response and (response.status_code or 0) >= 400
    if refused and response.should_close():
        sock = request.unreader.sock
        parser = get_parser(worker.cfg, sock, None)  # the worker keeps its own to itself
        parser.mesg = request
        if is_sending(parser):
            # with gunicorn's 64 kB some 413s were still lost, before bodies of 2.6 MB
            close_graceful(sock, max_drain=1_000_000)


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
        return not parser.finish_body(deadline=time.monotonic() + 0.01)
    except Exception:
        return True


def child_exit(server: Any, worker: Any) -> None:
    """Take a dead worker's gauges away: what it was doing is over."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


# Figures: side by side on two cores; most of them by make bench, in the README.
bind = settings.bind
# Python's lock bounds a worker at about one core. A local model is one process for all of them.
workers = settings.web_concurrency or 2
# gthread, although gevent answers more before a backend over HTTP, a tenth with 64 clients and half with a thousand:
# whatever does not wait in a socket stops all requests of a gevent worker.
worker_class = GEvent if settings.worker_class == "gevent" else GThread
# Requests wait for backends most of the time; threads are what waits. MAX_CONCURRENCY keeps two of them free, which
# refuse what is too much and answer /health. 16 refuse some of 64 clients; more of them than clients cost no rate; one
# that waits has 70 kB (docs/scaling.md).
threads = settings.threads
# A worker takes no more connections than it has threads, so that the other workers get the rest: 16 requests at once on
# 2 workers of 8 threads never waited so, and in 10 of 15 waves otherwise (gevent's have room for twice as many, and
# refuse). As many again may be kept between requests: a new connection for each costs a quarter of its processor time
# (64 clients got 1,010 answers/s, and 1,306 so). Under gevent the head of a request has these seconds too.
worker_connections = 2 * settings.threads
keepalive = 5
# In this order: a request ends at its deadline, then a stopping worker may go, then the supervisor may kill
# (give it graceful_timeout + 10 s). `timeout` bounds the worker's own loop here, not a request.
graceful_timeout = math.ceil(settings.request_timeout) + 10
timeout = 60
# gunicorn would take SCRIPT_NAME from whoever speaks from this machine, nginx for its clients too.
forwarder_headers = ""
# All gunicorns of a user would share one control socket.
control_socket_disable = True
