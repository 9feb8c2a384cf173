"""Every setting, declared once: name, default, what is allowed, what it does.

Environment variables beat the `.env` file, which beats the default (python-decouple's order); an empty value
counts as not set. `env.example`, the README's table and `/config` are tested against this declaration.
"""

from __future__ import annotations

import base64
import dataclasses
import difflib
import hashlib
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from decouple import RepositoryEnv

from .errors import ConfigError

REDACTED = "[redacted]"
# A shorter key is more likely to be a placeholder, and to occur in any text.
MIN_SECRET_CHARS = 8
Field = dataclasses.Field[Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

BACKENDS = ("ollama", "huggingface", "openai", "claude", "stub", "replay")
PLUGINS = "llm_api.backends"


@dataclass(frozen=True)
class ApiKey:
    """A key that the service accepts: its name for the log, its SHA-256 in hex, and itself where it stands in clear."""

    name: str
    sha256: str
    secret: str | None = dataclasses.field(default=None, repr=False)


@dataclass(frozen=True)
class Rule:
    """How a value is read: `parse` raises ValueError on what `allowed` does not describe."""

    parse: Callable[[str], Any]
    allowed: str


def one_of(*values: str) -> Rule:
    def parse(text: str) -> str:
        if text.lower() not in values:
            raise ValueError
        return text.lower()

    return Rule(parse, f"one of {', '.join(values)}")


def number(kind: type[int] | type[float], low: float, high: float) -> Rule:
    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return Rule(parse, f"a {'whole ' if kind is int else ''}number from {low:,} to {high:,}")


def _parse_boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError
    return _BOOLEANS[text.lower()]


def _parse_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError
    _ = parts.port  # raises ValueError where it is no port
    if not re.fullmatch(r"[!-~]+", text) or "@" in parts.netloc.rpartition("@")[0]:
        raise ValueError
    return text.rstrip("/")


def _parse_proxy(text: str) -> str:
    if not text.startswith("http://"):
        raise ValueError
    return _parse_url(text)


def _parse_ollama_url(text: str) -> str:
    """OLLAMA_HOST may be a host, host:port or URL, and names the address to bind to (ollama, envconfig/config.go)."""
    text = f"127.0.0.1{text}" if text.startswith(":") else text
    url = urlsplit(_parse_url(text if "//" in text else f"http://{text}"))
    port = ":11434" if "//" not in text and url.port is None else ""
    netloc = re.sub(r"^(0\.0\.0\.0|\[::\])(?=:|$)", "127.0.0.1", url.netloc + port)
    return url._replace(netloc=netloc).geturl()


def _parse_date(text: str) -> str:
    if datetime.strptime(text, "%Y-%m-%d").date().isoformat() != text:
        raise ValueError
    return text


def _parse_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[!-~]+", text) or not (port if host == "unix" else host and 0 <= int(port) <= 65_535):
        raise ValueError
    return text


def _parse_backend(text: str) -> str:
    """One of ours, the name of a plugin's entry point, or `package.module:Class`."""
    if text.lower() in BACKENDS:
        return text.lower()
    if not re.fullmatch(r"[\w.]+:\w+", text) and not entry_points(group=PLUGINS, name=text):
        raise ValueError
    return text


def _parse_chain(text: str) -> tuple[str, ...]:
    if text.lower() == "none":
        return ()
    names = tuple(_parse_backend(name.strip()) for name in text.split(","))
    if len(set(names)) < len(names):
        raise ValueError
    return names


KEY_ENTRY = re.compile(
    r"(?:(?!sha256:)(?P<name>[\w.@-]{1,64}):)?+"
    r"(?:sha256:(?P<sha256>[0-9a-fA-F]{64})|(?!sha256:)(?P<secret>[\x21-\x2b\x2d-\x7e]{8,}))"
)


def _parse_keys(text: str) -> tuple[ApiKey, ...]:
    """`KEY`, `NAME:KEY` or `NAME:sha256:HEX`, with commas between; a key without a name gets a piece of its hash."""
    keys = [_parse_key(entry.strip()) for entry in text.split(",")]
    if len({key.name for key in keys}) < len(keys):
        raise ValueError
    return tuple(keys)


def _parse_key(entry: str) -> ApiKey:
    found = KEY_ENTRY.fullmatch(entry)
    if not found:
        raise ValueError
    digest = (found["sha256"] or hashlib.sha256(found["secret"].encode()).hexdigest()).lower()
    return ApiKey(found["name"] or f"key-{digest[:8]}", digest, found["secret"])


def _parse_rates(text: str) -> str:
    if not all(re.fullmatch(r"[1-9]\d{0,8}/(second|minute|hour|day)", rate) for rate in text.split(";")):
        raise ValueError
    return text


def _parse_storage(text: str) -> str:
    url = urlsplit(text)
    _ = url.port  # raises ValueError where it is no port
    if text != "memory://" and (url.scheme not in ("redis", "rediss") or not url.hostname or url.query):
        raise ValueError
    return text


def _parse_networks(text: str) -> tuple[Network | None, ...]:
    """None stands for a unix socket, whose other end has no address."""
    names = [name.strip() for name in text.split(",")]
    return tuple(None if name == "unix" else ipaddress.ip_network(name) for name in names)


def _parse_origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.strip().lower() for origin in text.split(","))
    if not all(origin == "*" or re.fullmatch(r"https?://[^/?#\s@,*]+", origin) for origin in origins):
        raise ValueError
    return origins


def _matching(pattern: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return parse


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
BOOLEAN = Rule(_parse_boolean, "true or false")
URL = Rule(_parse_url, "an http:// or https:// address")
OLLAMA_ADDRESS = Rule(_parse_ollama_url, "an http:// or https:// address")
PROXY = Rule(_parse_proxy, "an http:// address")
STORAGE = Rule(_parse_storage, "memory:// or redis://HOST:PORT/NUMBER")
# They may hold a password.
ADDRESSES = (URL, OLLAMA_ADDRESS, PROXY, STORAGE)
BACKEND = Rule(_parse_backend, f"one of {', '.join(BACKENDS)}, a plugin's name, or module:Class")
CHAIN = Rule(_parse_chain, "none, or a list of such names without repeats")
# What a header may carry; it also keeps a key that was pasted with a line break from reaching an exception's text.
SECRET = Rule(_matching(r"[\x21-\x7e]+"), "printable ASCII without blanks")
TEXT = Rule(_matching(r"[^\x00-\x1f\x7f]+"), "one line of text")
DATE = Rule(_parse_date, "a date as YYYY-MM-DD")
KEYS = Rule(_parse_keys, "KEY, NAME:KEY or NAME:sha256:HEX, separated by commas; a KEY has 8 characters or more")
RATES = Rule(_parse_rates, "NUMBER/second, minute, hour or day, several with ; between")
NETWORKS = Rule(_parse_networks, "addresses, networks as 10.0.0.0/8, or unix, separated by commas")
ORIGINS = Rule(_parse_origins, "* or origins as https://app.example.com, separated by commas")
ADDRESS = Rule(_parse_address, "HOST:PORT or unix:PATH")


def setting(default: Any, rule: Rule, about: str, *, secret: bool = False, other_names: tuple[str, ...] = ()) -> Any:
    """Declare one setting; `other_names` are the vendor's own variables, read where ours is unset."""
    return dataclasses.field(
        default=default,
        repr=not secret and rule not in ADDRESSES,
        metadata={"rule": rule, "about": about, "secret": secret, "other_names": other_names},
    )


@dataclass(frozen=True)
class Settings:
    """The settings of one service. A field's environment variable is its name in capitals."""

    llm_backend: str = setting("ollama", BACKEND, "who answers")
    llm_fallback: tuple[str, ...] = setting(
        ("stub",), CHAIN, "who answers when the backend can't, in this order, as openai,stub; none switches it off"
    )
    ollama_model: str = setting("llama2", TEXT, "model for Ollama; pull it first: ollama pull llama2")
    ollama_url: str = setting(
        "http://localhost:11434", OLLAMA_ADDRESS, "where Ollama listens", other_names=("OLLAMA_HOST",)
    )
    hf_mode: str = setting("local", one_of("local", "cloud"), "local: in this process; cloud: HF_BASE_URL")
    hf_model: str | None = setting(
        None,
        TEXT,
        "local: a .gguf file, a model folder or a hub name, unset: the packaged SmolLM2-135M-Instruct; "
        "cloud: unset: openai/gpt-oss-20b",
    )
    hf_system: str = setting("You are a helpful assistant.", TEXT, "local: the system message where a request has none")
    hf_api_key: str | None = setting(
        None, SECRET, "key for Hugging Face's cloud", secret=True, other_names=("HF_TOKEN",)
    )
    hf_base_url: str = setting(
        "https://router.huggingface.co/v1", URL, "Hugging Face's router, or another server with its wire"
    )
    openai_api_key: str | None = setting(None, SECRET, "key for OpenAI", secret=True)
    openai_model: str = setting("gpt-6-luna", TEXT, "model for OpenAI (gpt-3.5-turbo was shut down on 2026-10-23)")
    openai_base_url: str = setting(
        "https://api.openai.com/v1", URL, "OpenAI, or a server with its wire: vLLM, SGLang, TGI, llama.cpp"
    )
    claude_api_key: str | None = setting(
        None, SECRET, "key for Claude", secret=True, other_names=("ANTHROPIC_API_KEY",)
    )
    claude_model: str = setting(
        "claude-haiku-5-5", TEXT, "model for Claude (claude-3-sonnet-20240229 was shut down on 2025-07-21)"
    )
    claude_base_url: str = setting("https://api.anthropic.com", URL, "Anthropic, or a server with its wire")
    claude_version: str = setting(
        "2023-06-01", DATE, "anthropic-version header; 2026-10-21 takes no temperature and no top_p"
    )
    replay_file: str | None = setting(None, TEXT, "the log that replay answers from; unset: LOG_FILE")
    replay_miss: str = setting(
        "error",
        one_of("error", "fallback"),
        "what replay has no answer to: error: is a 400; fallback: is asked of LLM_FALLBACK",
    )
    allow_model_choice: bool = setting(
        False, BOOLEAN, "true: a request's model may choose any backend of the chain, as openai/gpt-6-luna"
    )
    request_timeout: float = setting(
        120.0, number(float, 0.1, 3600), "seconds one request may take, with retries, fallback and stream"
    )
    connect_timeout: float = setting(5.0, number(float, 0.1, 60), "seconds to connect to a backend")
    max_retries: int = setting(2, number(int, 0, 10), "times a backend is asked again before the next one is")
    max_prompt_chars: int = setting(100_000, number(int, 1, 10_000_000), "characters of a prompt")
    max_body_bytes: int = setting(1_048_576, number(int, 1, 100_000_000), "bytes of a request's body")
    max_concurrency: int | None = setting(
        None, number(int, 1, 1024), "generations at once in one worker, the rest get 503; unset: THREADS - 2"
    )
    api_keys: tuple[ApiKey, ...] = setting(
        (), KEYS, "who may ask; flask llm keys new NAME makes one; unset: everybody", secret=True
    )
    rate_limit: str | None = setting(
        None, RATES, "requests that one key, or without keys one address, may make; unset: any number"
    )
    rate_limit_storage: str = setting(
        "memory://", STORAGE, "where they are counted; with memory:// each worker counts for itself"
    )
    rate_limit_on_failure: str = setting(
        "memory",
        one_of("memory", "allow", "deny"),
        "when that storage is away: memory: each worker counts for itself; allow: nobody does; deny: 503",
    )
    trusted_proxies: tuple[Network | None, ...] = setting(
        (), NETWORKS, "whose X-Forwarded-For counts; unix: who asks by a unix socket; unset: nobody's"
    )
    cors_origins: tuple[str, ...] = setting((), ORIGINS, "pages of other sites that may call from a browser")
    http_proxy_url: str | None = setting(
        None, PROXY, "proxy to backends on other machines; HTTP_PROXY and its like are not read"
    )
    log_file: str = setting("logs/log.jsonl", TEXT, "the log: one JSON object a line, one line a request")
    log_prompts: bool = setting(
        True, BOOLEAN, "false: the log has the length and SHA-256 of prompts and answers in place of their text"
    )
    log_max_text: int = setting(100_000, number(int, 0, 10_000_000), "characters of a text in the log, the rest is cut")
    log_required: bool = setting(
        True, BOOLEAN, "false: a request whose line can't be written is answered all the same, its line goes to stderr"
    )
    log_fsync: bool = setting(False, BOOLEAN, "true: each line is on the disk before its answer leaves (fdatasync)")
    log_max_bytes: int = setting(
        0, number(int, 0, 2**50), "bytes after which the log is renamed to LOG_FILE.1 and begun anew; 0: never"
    )
    log_backups: int = setting(5, number(int, 1, 1000), "renamed logs that are kept with LOG_MAX_BYTES")
    bind: str = setting("127.0.0.1:8000", ADDRESS, "where gunicorn listens")
    worker_class: str = setting(
        "gthread",
        one_of("gthread", "gevent"),
        "gunicorn's workers; gevent (pip install gevent) for hundreds of slow remote calls at once",
    )
    web_concurrency: int | None = setting(
        None, number(int, 1, 512), "gunicorn's worker processes; unset: 2, or 1 with a local model"
    )
    threads: int = setting(16, number(int, 1, 1024), "requests at once in one worker, of either class")

    @classmethod
    def load(cls, env_file: str | Path | None = ".env", *earlier: Mapping[str, Any]) -> Settings:
        """Read `earlier`, then the environment, then `env_file` (None: no file). Raises ConfigError.

        The error names the wrong variable. `earlier` has settings by their names in capitals, as text or as values.
        """
        _check_names({name for source in earlier for name in source})
        sources = [*earlier, *_sources(env_file)]
        return cls(**{field.name: _read(field, sources) for field in dataclasses.fields(cls)})

    @classmethod
    def default(cls, name: str) -> Any:
        """Return a setting's default."""
        return cls.__dataclass_fields__[name].default

    @property
    def concurrency(self) -> int:
        """Generations at once in one worker: two threads are left to refuse the rest and to say how things are."""
        return self.max_concurrency or max(1, self.threads - 2)

    @property
    def is_public(self) -> bool:
        """Whether BIND can be reached from other machines."""
        host = self.bind.rpartition(":")[0].strip("[]")
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host not in ("unix", "localhost")

    def public(self) -> dict[str, Any]:
        """Return what /config shows: no secrets, and no user:password of a URL."""
        fields = [field for field in dataclasses.fields(self) if not field.metadata["secret"]]
        return {field.name: _shown(getattr(self, field.name), field) for field in fields}

    def redact(self, text: str) -> str:
        """Return `text` without the values that must never leave the process, wherever they stand."""
        for secret in self.secrets:
            text = text.replace(secret, REDACTED)
        return text

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """The values that must never leave the process: keys, and passwords in addresses."""
        values = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata["rule"] is KEYS:
                values += [key.secret for key in value]
            elif field.metadata["secret"]:
                values.append(value)
            elif value and field.metadata["rule"] in ADDRESSES:
                values += _passwords(value)
        long = {value for value in values if value and len(value) >= MIN_SECRET_CHARS}
        return tuple(sorted(long, key=len, reverse=True))  # one may be the beginning of another


def _passwords(address: str) -> list[str]:
    """Return the password of an address as it stands there, decoded, and as HTTP sends it."""
    url = urlsplit(address)
    if not url.password:
        return []
    user, password = unquote(url.username or ""), unquote(url.password)
    return [url.password, password, base64.b64encode(f"{user}:{password}".encode()).decode()]


def _sources(env_file: str | Path | None) -> list[Mapping[str, str]]:
    if env_file is None or not Path(env_file).is_file():
        return [os.environ]
    try:
        # utf-8-sig: a byte order mark would become part of the first name
        _check_lines(Path(env_file).read_text("utf-8-sig"), env_file)
        return [os.environ, RepositoryEnv(env_file, encoding="utf-8-sig").data]
    except UnicodeDecodeError:
        raise ConfigError(f"{env_file} is not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{env_file} can't be read: {os.strerror(error.errno or 0)}") from None


def _check_lines(text: str, env_file: str | Path) -> None:
    """Refuse what would be passed over in silence: a line that sets nothing, and a name that is nearly one of ours."""
    known = {field.name.upper() for field in dataclasses.fields(Settings)}
    for number, line in enumerate(text.splitlines(), 1):
        name = line.partition("=")[0].strip()
        if not name or name.startswith("#"):
            continue
        if "=" not in line or not re.fullmatch(r"\w+", name):
            raise ConfigError(f"{env_file}, line {number}: write NAME=value, without export")
        if name not in known and (close := difflib.get_close_matches(name, known, 1, 0.85)):
            raise ConfigError(f"{env_file}, line {number}: {name} is no setting, did you mean {close[0]}?")


def _check_names(names: set[str]) -> None:
    for name in names - {field.name.upper() for field in dataclasses.fields(Settings)}:
        raise ConfigError(f"{name} is no setting")


def _read(field: Field, sources: list[Mapping[str, Any]]) -> Any:
    for name in (field.name.upper(), *field.metadata["other_names"]):
        for source in sources:
            if text := _text(source.get(name)).strip():
                return _parse(name, text, field)
    return field.default


def _text(value: Any) -> str:
    """Return a value of a program's as it would stand in the environment."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    return "" if value is None else str(value)


def _parse(name: str, text: str, field: Field) -> Any:
    rule: Rule = field.metadata["rule"]
    try:
        return rule.parse(text)
    except ValueError:
        secret = field.metadata["secret"] or (rule in ADDRESSES and "@" in text)
        raise ConfigError(
            f"{name}={'its value' if secret else text!r} is not valid: it must be {rule.allowed}"
        ) from None


def _shown(value: Any, field: Field) -> Any:
    if field.metadata["rule"] is NETWORKS:
        return [str(network or "unix") for network in value]
    if not value or field.metadata["rule"] not in ADDRESSES:
        return value
    url = urlsplit(value)
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl() if "@" in url.netloc else str(value)
