"""How gunicorn runs the service: gunicorn wsgi:app reads this file by itself."""

import math
import sys
from pathlib import Path
from typing import Any

here = Path(__file__).parent
sys.path.insert(0, str(here))

from llm_api.config import Settings  # noqa: E402  (found only after the line above)
from llm_api.errors import ConfigError  # noqa: E402

try:
    settings = Settings.load(here / ".env")
except ConfigError as error:
    sys.exit(f"llm_api: {error}")

local_model = settings.hf_mode == "local" and "huggingface" in (settings.llm_backend, *settings.llm_fallback)


def when_ready(server: Any) -> None:
    """Say at the start who will answer."""
    chain = ", then ".join(dict.fromkeys((settings.llm_backend, *settings.llm_fallback)))
    server.log.info("Answers come from %s; log: %s", chain, settings.log_file)


bind = settings.bind
# Each worker would load a copy of a local model; its engine serves several requests at once as it is.
workers = settings.web_concurrency or (1 if local_model else 2)
# Requests wait for backends most of the time; threads are what waits.
worker_class = "gthread"
threads = settings.threads
# A worker takes no more connections than it has threads, so that the other workers get the rest; a connection kept
# open between requests would hold such a place, so none is (nginx in front keeps its clients' ones).
worker_connections = settings.threads
keepalive = 0
# In this order: a request ends at its deadline, then a stopping worker may go, then the supervisor may kill
# (give it graceful_timeout + 10 s). `timeout` bounds the worker's own loop here, not a request.
graceful_timeout = math.ceil(settings.request_timeout) + 10
timeout = 60
# gunicorn would take SCRIPT_NAME from whoever speaks from this machine, nginx for its clients too.
forwarder_headers = ""
# A model that is loaded before the fork hangs in the worker.
preload_app = False
# All gunicorns of a user would share one control socket.
control_socket_disable = True
