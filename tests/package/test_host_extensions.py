"""Beside Flask-Login, Flask-Limiter and Flask-SQLAlchemy in one host: each does its work, for our views too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from flask.testing import FlaskClient
from flask_limiter import Limiter
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user
from flask_sqlalchemy import SQLAlchemy

from llm_api import LLMAPI
from llm_api.errors import Unauthorized

LIMIT = 6


def make_host(log: Path) -> Flask:
    """Return an app whose users stand in a database, may use a model by what stands there, and six requests an hour."""
    app = Flask("host")
    app.config |= {"SQLALCHEMY_DATABASE_URI": f"sqlite:///{log.parent}/host.db", "SECRET_KEY": "for this test only"}
    db, login = SQLAlchemy(app), LoginManager(app)
    client = lambda: request.headers.get("X-Client", "one")  # noqa: E731
    Limiter(client, app=app, default_limits=[f"{LIMIT}/hour"], storage_uri="memory://")

    class User(UserMixin, db.Model):  # type: ignore[name-defined,misc]
        id = db.Column(db.String, primary_key=True)
        paid = db.Column(db.Boolean)

    with app.app_context():
        db.create_all()
        db.session.add_all([User(id="ada", paid=True), User(id="bob", paid=False)])
        db.session.commit()

    @login.user_loader
    def load(name: str) -> User | None:
        return db.session.get(User, name)

    @app.post("/login/<name>")
    def log_in(name: str) -> str:
        login_user(db.session.get(User, name))
        return name

    @app.get("/own")
    @login_required
    def own() -> str:
        return str(current_user.id)

    @app.errorhandler(429)
    def slower(_: Exception) -> tuple[str, int]:
        return "the host's 429", 429

    def caller() -> str:
        if not current_user.is_authenticated:
            raise Unauthorized("log in first")
        return str(current_user.id)

    LLMAPI(
        app,
        "/llm",
        llm_backend="stub",
        log_file=log,
        caller=caller,
        may_use=lambda name, model: db.session.get(User, name).paid,
        redact=lambda record: record | {"prompt": None},
    )
    return app


@pytest.fixture
def host(tmp_path: Path) -> FlaskClient:
    return make_host(tmp_path / "log.jsonl").test_client()


def log(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stream", [False, True])
def test_who_has_logged_in_may_ask(host: FlaskClient, tmp_path: Path, stream: bool) -> None:
    """The user is the caller, and the database says what that one may use; streams too."""
    ask = {"prompt": "Hello", "stream": stream}
    assert host.post("/llm/generate", json=ask).status_code == 401
    host.post("/login/bob")
    assert host.post("/llm/generate", json=ask).status_code == 403
    host.post("/login/ada")
    assert "[stub]" in host.post("/llm/generate", json=ask).text
    assert host.get("/own").text == "ada"
    assert [(line["caller"], line["http_status"]) for line in log(tmp_path)] == [
        (None, 401),
        ("bob", 403),
        ("ada", 200),
    ]
    assert {line["prompt"] for line in log(tmp_path)} == {None}


def test_the_hosts_limiter_counts_our_requests(host: FlaskClient) -> None:
    """Flask-Limiter stops requests to our views as to its own, each with its own page; other clients go on."""
    host.post("/login/ada")
    for path in ("/llm/config", "/own"):
        assert [host.get(path).status_code for _ in range(LIMIT)] == [200] * LIMIT
    ours, own = host.get("/llm/config"), host.get("/own")
    assert (ours.status_code, own.status_code, own.text) == (429, 429, "the host's 429")
    assert host.get("/llm/config", headers={"X-Client": "two"}).status_code == 200


def test_the_host_may_exempt_us(tmp_path: Path) -> None:
    """Limiter.exempt takes the blueprint of a mount, as of any other."""
    app = make_host(tmp_path / "log.jsonl")
    (limiter,) = app.extensions["limiter"]
    limiter.exempt(app.blueprints["llm_api"])
    client = app.test_client()
    assert {client.get("/llm/health").status_code for _ in range(LIMIT + 1)} == {200}
