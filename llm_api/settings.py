"""Every setting, declared once: name, default, what is allowed, what it does.

Environment variables beat the `.env` file, which beats the default (python-decouple's order); an empty value
counts as not set. `env.example`, the README's table and `/config` are tested against this declaration.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from decouple import RepositoryEnv

from .errors import ConfigError
from .rules import (
    ADDRESS,
    ADDRESSES,
    BACKEND,
    BOOLEAN,
    CHAIN,
    DATE,
    KEYS,
    NETWORKS,
    OLLAMA_ADDRESS,
    ORIGINS,
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
)

REDACTED = "[redacted]"
# A shorter key is more likely to be a placeholder, and to occur in any text.
MIN_SECRET_CHARS = 8
# As many again wait as a local model answers at once: who is refused at once can go elsewhere.
WAITING_SHARE = 2
Field = dataclasses.Field[Any]


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
    hf_mode: str = setting("local", one_of("local", "cloud"), "local: on this machine; cloud: HF_BASE_URL")
    hf_model: str | None = setting(
        None,
        TEXT,
        "local: a .gguf file, a model's folder, or a hub name as owner/name-GGUF:Q4_K_M, unset: the packaged "
        "SmolLM2-135M-Instruct; "
        "cloud: unset: openai/gpt-oss-20b",
    )
    hf_system: str = setting("You are a helpful assistant.", TEXT, "local: the system message where a request has none")
    hf_context: int = setting(4096, number(int, 256, 1_048_576), "local: tokens of one request and its answer")
    hf_slots: int = setting(8, number(int, 1, 64), "local: requests that a model answers at once; each has HF_CONTEXT")
    hf_threads: int | None = setting(
        None, number(int, 1, 512), "local: threads that compute; unset: as many as cores that may be used"
    )
    hf_api_key: str | None = setting(
        None,
        SECRET,
        "key for Hugging Face's cloud, and for gated models of its hub",
        secret=True,
        other_names=("HF_TOKEN",),
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
        None,
        number(int, 1, 1024),
        "generations at once in one worker, the rest get 503; unset: THREADS - 2; 2 * HF_SLOTS before a local model",
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
    web_concurrency: int | None = setting(None, number(int, 1, 512), "gunicorn's worker processes; unset: 2")
    threads: int = setting(64, number(int, 1, 1024), "requests at once in one worker, of either class")

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
                values += passwords(value)
        long = {value for value in values if value and len(value) >= MIN_SECRET_CHARS}
        return tuple(sorted(long, key=len, reverse=True))  # one may be the beginning of another


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
    for place, line in enumerate(text.splitlines(), 1):
        name = line.partition("=")[0].strip()
        if not name or name.startswith("#"):
            continue
        if "=" not in line or not re.fullmatch(r"\w+", name):
            raise ConfigError(f"{env_file}, line {place}: write NAME=value, without export")
        if name not in known and (close := difflib.get_close_matches(name, known, 1, 0.85)):
            raise ConfigError(f"{env_file}, line {place}: {name} is no setting, did you mean {close[0]}?")


def _check_names(names: set[str]) -> None:
    known = {field.name.upper() for field in dataclasses.fields(Settings)}
    for name in names - known:
        close = difflib.get_close_matches(name, known, 1)
        raise ConfigError(f"{name} is no setting{f', did you mean {close[0]}?' if close else ''}")


def _read(field: Field, sources: list[Mapping[str, Any]]) -> Any:
    for name in (field.name.upper(), *field.metadata["other_names"]):
        for source in sources:
            if text := _text(source.get(name), field).strip():
                return _parse(name, text, field)
    return field.default


def _text(value: Any, field: Field) -> str:
    """Return a value of a program's as it would stand in the environment."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or ("none" if field.metadata["rule"] is CHAIN else "")
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
