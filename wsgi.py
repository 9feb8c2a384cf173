"""The WSGI entry: gunicorn wsgi:app, or flask --app wsgi run."""

import sys
from pathlib import Path

from llm_api import Settings, create_app
from llm_api.errors import ConfigError

here = Path(__file__).parent
try:
    app = create_app(Settings.running or Settings.load(here / ".env"))
except ConfigError as error:
    print(f"llm_api: {error}", file=sys.stderr)
    sys.exit(4)  # gunicorn's word for an app that can't be loaded; on any other it starts the worker again, for ever
