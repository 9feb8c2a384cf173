"""Every setting, declared once: name, default, what is allowed, what it does.

Environment variables beat the `.env` file, which beats the default (python-decouple's order); an empty value
counts as not set. `env.example`, the table in docs/settings.md and `/config` are tested against this declaration.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from decouple import RepositoryEnv

from .errors import ConfigError
from .rules import (
    ADDRESS,
    ADDRESSES,
    ALIASES,
    BACKEND,
    BOOLEAN,
    CHAIN,
    DATE,
    EXTRA_BODY,
    EXTRA_HEADERS,
    EXTRAS,
    FILE,
    FRONTS,
    FRONTS_RULE,
    HOSTS,
    KEYS,
    NAMES,
    NETWORKS,
    OLLAMA_ADDRESS,
    ORIGINS,
    PROSE,
    PROXY,
    RATES,
    SECRET,
    STORAGE,
    TEXT,
    URL,
    ApiKey,
    Network,
    Rule,
    number,
    one_of,
    passwords,
    slip,
    texts,
    unquoted,
)

REDACTED = "[redacted]"
STDOUT = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
# A shorter key is more likely to be a placeholder, and to occur in any text.
MIN_SECRET_CHARS = 8
# As many again wait as a local model answers at once: a request that is refused at once can go elsewhere.
WAITING_SHARE = 2
# What any variable's name may begin with; in a host app the other names must begin with one of OURS.
PREFIX = "LLM_API_"
OURS = ("LLM_", "OLLAMA_", "HF_", "OPENAI_", "CLAUDE_", "ANTHROPIC_")
# How alike a name that sets nothing is to one that does: all slips of one letter, none of 200 names that others use.
ALIKE = 0.85
# Names that look like a slip, and are none: Ollama's, OpenAI's, Flask-Limiter's, and one of runtime/gunicorn.py.
FOREIGN = frozenset({"OLLAMA_MODELS", "OPENAI_ADMIN_KEY", "RATELIMIT_STORAGE_URI", "LLM_API_METRICS_OWNER"})
# Other programs' names for the same.
ELSEWHERE = {
    **{"PORT": "BIND=HOST:PORT", "OLLAMA_BASE_URL": "OLLAMA_URL", "OPENAI_API_BASE": "OPENAI_BASE_URL"},
    **{"OPENAI_KEY": "OPENAI_API_KEY", "CLAUDE_KEY": "CLAUDE_API_KEY"},
}
Field = dataclasses.Field[Any]

logger = logging.getLogger(__name__)


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

    llm_backend: str = setting("ollama", BACKEND, "the backend that answers")
    llm_fallback: tuple[str, ...] = setting(
        ("stub",),
        CHAIN,
        "backends to try in this order when the first one fails, such as openai,stub; none: no fallback",
    )
    ollama_model: str = setting("llama2", TEXT, "model for Ollama; download it first: ollama pull llama2")
    ollama_embed_model: str = setting(
        "nomic-embed-text", TEXT, "model for Ollama's embeddings; download it first: ollama pull nomic-embed-text"
    )
    ollama_url: str = setting(
        "http://localhost:11434", OLLAMA_ADDRESS, "address of the Ollama server", other_names=("OLLAMA_HOST",)
    )
    ollama_extra_body: Mapping[str, Any] | None = setting(
        None,
        EXTRA_BODY,
        'fields for requests that lack them, such as {"keep_alive": "1h", "options": {"num_ctx": 16384}}',
        secret=True,
    )
    ollama_extra_headers: Mapping[str, str] | None = setting(
        None, EXTRA_HEADERS, "headers for all requests", secret=True
    )
    hf_mode: str = setting(
        "local", one_of("local", "cloud"), "local: the model runs on this machine; cloud: HF_BASE_URL runs it"
    )
    hf_model: str | None = setting(
        None,
        TEXT,
        "local: a .gguf file, a model folder, or a hub name such as owner/name-GGUF:Q4_K_M, by default the packaged "
        "SmolLM2-135M-Instruct; cloud: a hub name, by default openai/gpt-oss-20b",
    )
    hf_embed_model: str = setting(
        "sentence-transformers/all-MiniLM-L6-v2",
        TEXT,
        "cloud: model for embeddings; local: those are of HF_MODEL",
    )
    hf_mmproj: str | None = setting(
        None, TEXT, "local: the .gguf file by which the model sees images, by default a `mmproj` beside it"
    )
    hf_system: str = setting("You are a helpful assistant.", PROSE, "local: system message for requests that have none")
    hf_context: int = setting(4096, number(int, 256, 1_048_576), "local: tokens of one request and its answer")
    hf_slots: int = setting(
        8, number(int, 1, 64), "local: requests that the model answers at once, each with HF_CONTEXT tokens"
    )
    hf_threads: int | None = setting(
        None, number(int, 1, 512), "local: threads that compute; unset: one for each core that may be used"
    )
    hf_api_key: str | None = setting(
        None,
        SECRET,
        "API key for Hugging Face's cloud, and for gated models of its hub",
        secret=True,
        other_names=("HF_TOKEN",),
    )
    hf_base_url: str = setting(
        "https://router.huggingface.co/v1", URL, "address of Hugging Face's router or a compatible server"
    )
    hf_extra_body: Mapping[str, Any] | None = setting(
        None,
        EXTRA_BODY,
        'cloud: fields for requests that lack them, such as {"reasoning_effort": "low"}',
        secret=True,
    )
    hf_extra_headers: Mapping[str, str] | None = setting(
        None, EXTRA_HEADERS, "cloud: headers for all requests", secret=True
    )
    openai_api_key: str | None = setting(None, SECRET, "API key for OpenAI", secret=True)
    openai_model: str = setting("gpt-6-luna", TEXT, "model for OpenAI (gpt-3.5-turbo was shut down on 2026-10-23)")
    openai_embed_model: str = setting("text-embedding-3-small", TEXT, "model for OpenAI's embeddings")
    openai_base_url: str = setting(
        "https://api.openai.com/v1", URL, "address of OpenAI or a compatible server: vLLM, SGLang, TGI, llama.cpp"
    )
    openai_extra_body: Mapping[str, Any] | None = setting(
        None,
        EXTRA_BODY,
        'fields for requests that lack them, such as {"chat_template_kwargs": {"enable_thinking": false}}',
        secret=True,
    )
    openai_extra_headers: Mapping[str, str] | None = setting(
        None, EXTRA_HEADERS, "headers for all requests", secret=True
    )
    claude_api_key: str | None = setting(
        None, SECRET, "API key for Claude", secret=True, other_names=("ANTHROPIC_API_KEY",)
    )
    claude_model: str = setting(
        "claude-haiku-5-5", TEXT, "model for Claude (claude-3-sonnet-20240229 was shut down on 2025-07-21)"
    )
    claude_base_url: str = setting("https://api.anthropic.com", URL, "address of Anthropic or a compatible server")
    claude_version: str = setting(
        "2023-06-01", DATE, "anthropic-version header; version 2026-10-21 rejects temperature and top_p"
    )
    claude_extra_body: Mapping[str, Any] | None = setting(
        None,
        EXTRA_BODY,
        'fields for requests that lack them, such as {"metadata": {"user_id": "us"}}',
        secret=True,
    )
    claude_extra_headers: Mapping[str, str] | None = setting(
        None, EXTRA_HEADERS, "headers for all requests", secret=True
    )
    replay_file: str | None = setting(None, TEXT, "log file that replay answers from; unset: LOG_FILE")
    replay_miss: str = setting(
        "error",
        one_of("error", "fallback"),
        "requests that the log has no answer to: error: answer 400; fallback: ask LLM_FALLBACK",
    )
    fronts: tuple[str, ...] = setting(FRONTS, FRONTS_RULE, "the vendors whose APIs are served, and generate: our own")
    allow_model_choice: bool = setting(
        False, BOOLEAN, "true: a request may choose any backend of the chain by its model, such as openai/gpt-6-luna"
    )
    model_aliases: Mapping[str, str] | None = setting(
        None,
        ALIASES,
        "models for names that clients have built in, such as claude-*=default,gpt-4o=openai/gpt-6-luna; "
        "default: the configured one",
    )
    request_timeout: float = setting(
        120.0, number(float, 0.1, 3600), "seconds that a request may take, including retries, fallback and streaming"
    )
    connect_timeout: float = setting(5.0, number(float, 0.1, 60), "seconds to connect to a backend")
    max_retries: int = setting(2, number(int, 0, 10), "retries of a backend before the next one is tried")
    max_prompt_chars: int = setting(100_000, number(int, 1, 10_000_000), "longest prompt, in characters")
    # a largest picture in base64, beside a mebibyte of texts; each thread may hold one body
    max_body_bytes: int = setting(8_388_608, number(int, 1, 100_000_000), "largest request body, in bytes")
    max_image_bytes: int = setting(5_242_880, number(int, 1, 100_000_000), "largest picture's file, in bytes")
    fetch_images: bool = setting(
        False,
        BOOLEAN,
        "true: pictures at public http:// and https:// addresses are fetched for backends that don't do it themselves",
    )
    max_concurrency: int | None = setting(
        None,
        number(int, 1, 1024),
        "most generations at once in one worker, others get 503; unset: THREADS - 2; local model: 2 * HF_SLOTS",
    )
    api_keys: tuple[ApiKey, ...] = setting(
        (), KEYS, "keys that callers must send; flask llm keys new NAME makes one; unset: no key is needed", secret=True
    )
    operators: tuple[str, ...] = setting(
        (), NAMES, "keys that alone see all requests, /metrics and /config; unset: a key sees its own, and those two"
    )
    allowed_hosts: tuple[str, ...] = setting(
        (), HOSTS, "without API_KEYS: names that clients may call the service by, beside localhost and BIND's; *: any"
    )
    rate_limit: str | None = setting(
        None, RATES, "most requests for each key, or for each address where there are no keys; unset: no limit"
    )
    rate_limit_storage: str = setting(
        "memory://", STORAGE, "where requests are counted; memory:// counts in each worker separately"
    )
    rate_limit_on_failure: str = setting(
        "memory",
        one_of("memory", "allow", "deny"),
        "when that storage fails: memory: each worker counts separately; allow: no limit applies; deny: answer 503",
    )
    trusted_proxies: tuple[Network | None, ...] = setting(
        (), NETWORKS, "proxies whose X-Forwarded-For is trusted; unix: any client of the unix socket; unset: none"
    )
    cors_origins: tuple[str, ...] = setting((), ORIGINS, "web origins whose pages may call the API from a browser")
    http_proxy_url: str | None = setting(
        None, PROXY, "proxy for backends on other machines; HTTP_PROXY and similar variables are ignored"
    )
    log_file: str = setting("logs/log.jsonl", FILE, "log file: one line of JSON for each request; -: standard output")
    log_prompts: bool = setting(
        True, BOOLEAN, "false: log the length and SHA-256 of prompts and answers instead of their text"
    )
    log_max_text: int = setting(
        100_000, number(int, 0, 10_000_000), "longest text in the log, in characters; the rest is cut"
    )
    log_required: bool = setting(
        True, BOOLEAN, "false: a request whose log line can't be written is still answered, and the line goes to stderr"
    )
    log_fsync: bool = setting(False, BOOLEAN, "true: sync each line to the disk before its answer is sent (fdatasync)")
    log_max_bytes: int = setting(
        0,
        number(int, 0, 2**50),
        "size in bytes at which the log is renamed to LOG_FILE.1 and a new one is started; 0: never",
    )
    log_backups: int = setting(5, number(int, 1, 1000), "number of renamed logs to keep with LOG_MAX_BYTES")
    bind: str = setting("127.0.0.1:8000", ADDRESS, "address that gunicorn listens on")
    worker_class: str = setting(
        "gthread",
        one_of("gthread", "gevent"),
        "type of gunicorn's workers; gevent (pip install gevent) is for hundreds of slow remote calls at once",
    )
    web_concurrency: int | None = setting(None, number(int, 1, 512), "number of gunicorn's worker processes; unset: 2")
    threads: int = setting(64, number(int, 1, 1024), "requests at once in one worker, of either type")

    def __post_init__(self) -> None:
        """Raise ConfigError where settings contradict each other."""
        unknown = set(self.operators) - {key.name for key in self.api_keys}
        if unknown and self.api_keys:
            raise ConfigError(f"OPERATORS has {', '.join(sorted(unknown))}, but API_KEYS has no key of that name")

    @classmethod
    def load(cls, env_file: str | Path | None = ".env", *earlier: Mapping[str, Any]) -> Settings:
        """Read `earlier`, then the environment, then `env_file` (None: no file). Raises ConfigError.

        `earlier` is a host app's: settings by their names in capitals, as text or as values. The environment's general
        names, such as LOG_FILE, are then the host's, and ours begin with PREFIX.

        The error names the wrong variable; a name that sets nothing and is nearly one of ours is a warning in the log.
        """
        _check_names({name for source in earlier for name in source})
        environ = _environment(env_file)
        if earlier:
            environ = {name: value for name, value in environ.items() if name.startswith(OURS)}
        found = {"the environment": environ, str(env_file): _file(env_file)}
        for where, said in found.items():
            _warn(where, said)
        sources = [*earlier, *found.values()]
        return cls(**{field.name: _read(field, sources) for field in dataclasses.fields(cls)})

    @classmethod
    def default(cls, name: str) -> Any:
        """Return a setting's default."""
        return cls.__dataclass_fields__[name].default

    @property
    def concurrency(self) -> int:
        """Generations at once in one worker: two threads are left to refuse the rest and to say how things are."""
        is_local = (self.llm_backend, self.hf_mode) == ("huggingface", "local")
        most = WAITING_SHARE * self.hf_slots if is_local else self.threads
        return self.max_concurrency or max(1, min(self.threads - 2, most))

    @property
    def is_public(self) -> bool:
        """Whether BIND can be reached from other machines."""
        host = self.bind.rpartition(":")[0].strip("[]")
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host not in ("unix", "localhost")

    @property
    def logs_to_stdout(self) -> bool:
        """Whether the log is standard output, which can't be read back, locked or repaired."""
        return self.log_file in STDOUT

    def public(self) -> dict[str, Any]:
        """Return what /config shows: no secrets, and no user:password of a URL."""
        fields = [field for field in dataclasses.fields(self) if not field.metadata["secret"]]
        return {field.name: _shown(getattr(self, field.name), field) for field in fields}

    def redact(self, text: str) -> str:
        """Return `text` without the values that must never leave the process, wherever they occur."""
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
            elif field.metadata["rule"] in EXTRAS:
                values += texts(value)
            elif field.metadata["secret"]:
                values.append(value)
            elif value and field.metadata["rule"] in ADDRESSES:
                values += passwords(value)
        long = {value for value in values if value and len(value) >= MIN_SECRET_CHARS}
        return tuple(sorted(long, key=len, reverse=True))  # one may be the beginning of another


def _environment(env_file: str | Path | None) -> dict[str, str]:
    """Return the environment; before an `env_file`, without what Flask's command has put there from a .env.

    It does so where python-dotenv is installed, which reads quotes, `#` and `$` in its own way, and looks in the
    folders above too.
    """
    dotenv = sys.modules.get("dotenv") if env_file and "FLASK_RUN_FROM_CLI" in os.environ else None
    put = dotenv.dotenv_values(dotenv.find_dotenv(usecwd=True), encoding="utf-8") if dotenv else {}
    return {name: value for name, value in os.environ.items() if put.get(name) != value}


def _file(env_file: str | Path | None) -> dict[str, str]:
    """Return what a file sets. Raises ConfigError where it can't be read, and for a line that sets nothing."""
    try:
        # utf-8-sig: a byte order mark would become part of the first name
        text = Path(env_file).read_text("utf-8-sig") if env_file else ""
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise ConfigError(f"{env_file} is not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{env_file} can't be read: {os.strerror(error.errno or 0)}") from None
    for place, line in enumerate(text.split("\n"), 1):  # splitlines() ends one at U+2028 too
        name, equals, _ = map(str.strip, line.partition("="))
        if name + equals and not name.startswith("#") and not (equals and re.fullmatch(r"\w+", name)):
            raise ConfigError(f"{env_file}, line {place}: write NAME=value, without export")
    read: dict[str, str] = RepositoryEnv(env_file, encoding="utf-8-sig").data if text else {}
    return read


def _known() -> set[str]:
    return {name for field in dataclasses.fields(Settings) for name in _names(field)}


def _names(field: Field) -> tuple[str, ...]:
    return (field.name.upper(), *field.metadata["other_names"])


def _warn(where: str, names: Iterable[str]) -> None:
    """Warn of names that set nothing, and were meant to: they would be ignored silently."""
    known = _known()
    for name in names:
        plain = name.removeprefix(PREFIX)
        if plain in known or name in FOREIGN:
            continue
        close = difflib.get_close_matches(plain.upper(), known, 1, ALIKE)
        if meant := ELSEWHERE.get(name) or next(iter(close), None):
            logger.warning("%s: %s is not a setting, did you mean %s?", where, name, meant)
        elif plain != name:
            logger.warning("%s: %s is not a setting", where, name)


def _check_names(names: set[str]) -> None:
    known = _known()
    for name in names - known:
        close = difflib.get_close_matches(name, known, 1)
        raise ConfigError(f"{name} is not a setting{f', did you mean {close[0]}?' if close else ''}")


def _read(field: Field, sources: list[Mapping[str, Any]]) -> Any:
    for plain in _names(field):
        for source, name in product(sources, (PREFIX + plain, plain)):
            if text := unquoted(_text(source.get(name), field).strip()):
                return _parse(name, text, field)
    return field.default


def _text(value: Any, field: Field) -> str:
    """Return a value from Python as its environment variable would have it."""
    if isinstance(value, dict) and field.metadata["rule"] is ALIASES:
        return ",".join(map("=".join, value.items()))
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or ("none" if field.metadata["rule"] is CHAIN else "")
    return "" if value is None else str(value)


def _parse(name: str, text: str, field: Field) -> Any:
    rule: Rule = field.metadata["rule"]
    why = None if rule.is_free else slip(text)
    try:
        if not why:
            return rule.parse(text)
    except ValueError:
        why = f"it must be {rule.allowed}"
    secret = field.metadata["secret"] or (rule in ADDRESSES and "@" in text)
    raise ConfigError(f"{name}={'its value' if secret else text!r} is not valid: {why}")


def _shown(value: Any, field: Field) -> Any:
    if field.metadata["rule"] is NETWORKS:
        return [str(network or "unix") for network in value]
    if not value or field.metadata["rule"] not in ADDRESSES:
        return value
    url = urlsplit(value)
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl() if "@" in url.netloc else str(value)
