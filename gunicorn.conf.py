"""How gunicorn runs the service: gunicorn wsgi:app reads this file by itself."""

import logging
import math
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

here = Path(__file__).parent
sys.path.insert(0, str(here))

# found only after the line above
import llm_api
from llm_api.errors import ConfigError
from llm_api.runtime import gunicorn as ours

ours.make_metrics_folder()  # prometheus_client looks for it once, when create_app imports it
try:
    settings = llm_api.Settings.load(here / ".env")
    # Made here and thrown away, so that the workers share the memory of all that it imports; it opens nothing.
    llm_api.create_app(settings)
except ConfigError as error:
    sys.exit(f"llm_api: {error}")

worker_class = ours.GThread
pre_request, child_exit = ours.pre_request, ours.child_exit
first_worker = 1


def on_starting(server: Any) -> None:
    """Begin with no numbers of an earlier run, and with our workers, which count their connections."""
    if server.cfg.worker_class is not worker_class:
        sys.exit("llm_api: leave out -k, --worker-class: gunicorn's own workers hold up clients")
    if server.cfg.preload_app or server.cfg.reload:
        sys.exit(
            "llm_api: leave out --preload and --reload: the workers share the master's code, so a reload has no new"
        )
    if server.cfg.env and llm_api.Settings.load(here / ".env") != settings:
        sys.exit("llm_api: leave out -e, --env: the settings are read before; put them into the environment, or .env")
    ours.clear_metrics()
    server.reload = partial(ours.reload, server)
    server.START_CTX["args"] = sys.orig_argv  # for SIGUSR2: gunicorn forgets the -m of python -m gunicorn


def when_ready(server: Any) -> None:
    """Say which backends will answer, and let the workers share what the master has."""
    global first_worker
    first_worker = server.worker_age + 1
    ours.announce(ours.effective(settings, server, server.LISTENERS), server.log)
    ours.share_memory()


on_reload = when_ready


STOPS = {signal.SIGTERM, signal.SIGQUIT, signal.SIGINT}
os.register_at_fork(after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, STOPS))


def pre_fork(server: Any, worker: Any) -> None:
    """Hold stops back until the worker can mind them.

    gunicorn leaves it the master's handlers until it boots, which swallow a stop: the master waits for it to the end.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


def post_fork(server: Any, worker: Any) -> None:
    """Give the worker the master's settings, whatever .env says by now, and gunicorn's log; a stop ends it from now."""
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    llm_api.Settings.running = running = ours.effective(settings, server, worker.sockets)
    _, ours.GThread.max_idle = ours.allow_descriptors(running.threads)  # --threads may say more
    logging.getLogger("llm_api").handlers = server.log.error_log.handlers


def post_worker_init(worker: Any) -> None:
    """Load a local model before the first request comes; the first worker says what is wrong with the backends."""
    if "llm_api" in getattr(worker.wsgi, "extensions", ()):
        if worker.age == first_worker:
            llm_api.LLMAPI.of(worker.wsgi).health.begin(warns=True)
        llm_api.LLMAPI.begin(worker.wsgi)


# Figures: side by side on two cores; most of them by make bench, in docs/bench/README.md.
bind = settings.bind
# Python's lock bounds a worker at about one core. A local model is one process for all of them.
workers = settings.web_concurrency or 2
# Requests wait for backends most of the time; threads are what waits. They are made when they are needed: more of them
# than clients cost nothing. MAX_CONCURRENCY keeps two free, which refuse what is too much and answer /health.
threads, ours.GThread.max_idle = ours.allow_descriptors(settings.threads)
# A worker takes no more connections than it has threads, so that the other workers get the rest: 16 requests at once on
# 2 workers of 8 threads never waited so, and in 10 of 15 waves otherwise. Twice as many may be kept between requests,
# without a thread: a new connection for each costs a quarter of its processor time (64 clients got 1,010 answers/s, and
# 1,306 so).
worker_connections = 2 * threads
# Longer than what is in front keeps its own: nginx and balancers 60 s, browsers and most clients' libraries 75 to 90 s.
# Whoever closes first loses nothing; a request that meets the other one's end is lost.
keepalive = 95
# In this order: a request ends at its deadline, then a stopping worker may go, then the supervisor may kill
# (give it graceful_timeout + 10 s). `timeout` bounds the worker's own loop here, not a request.
graceful_timeout = math.ceil(settings.request_timeout) + 10
timeout = 60
# gunicorn would take SCRIPT_NAME from any client that speaks from this machine, nginx for its clients too.
forwarder_headers = ""
# All gunicorns of a user would share one control socket.
control_socket_disable = True
