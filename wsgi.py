"""The WSGI entry: gunicorn wsgi:app, or flask --app wsgi run."""

import sys
from pathlib import Path

from llm_api import Settings, create_app
from llm_api.errors import ConfigError

here = Path(__file__).parent
if "gunicorn.arbiter" in sys.modules and "llm_api.runtime.gunicorn" not in sys.modules:
    print(
        f"llm_api: WARNING: gunicorn has not read {here}/gunicorn.conf.py, so BIND, THREADS and "
        "WEB_CONCURRENCY do nothing, long answers are cut, and /metrics shows one worker: "
        f"start gunicorn in that folder, or with -c {here}/gunicorn.conf.py",
        file=sys.stderr,
    )
try:
    app = create_app(Settings.running or Settings.load(here / ".env"))
except ConfigError as error:
    print(f"llm_api: {error}", file=sys.stderr)
    sys.exit(4)  # gunicorn's word for an app that can't be loaded; on any other it starts the worker again, for ever
