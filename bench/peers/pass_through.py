"""The least that a stream costs under gunicorn: a WSGI app that hands on the far end's bytes as they come."""

import http.client
import os
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

FAR_END = urlsplit(os.environ["FAR_END"])


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    connection = http.client.HTTPConnection(FAR_END.netloc)
    connection.request("POST", FAR_END.path, environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    answer = connection.getresponse()
    start_response("200 OK", [("Content-Type", "application/x-ndjson")])
    while data := answer.read1(65_536):
        yield data
    connection.close()
