"""Every setting, declared once: name, default, what is allowed, what it does.

Environment variables beat the `.env` file, which beats the default (python-decouple's order); an empty value
counts as not set. `env.example`, the table in docs/settings.md and `/config` are tested against this declaration.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from decouple import RepositoryEnv

from . import rules
from .errors import ConfigError
from .rules import ApiKey, Network, Rule, is_loopback, number, one_of, slip, unquoted

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
FOREIGN = {
    *("OLLAMA_MODELS", "OPENAI_ADMIN_KEY", "ANTHROPIC_ADMIN_KEY"),
    *("RATELIMIT_STORAGE_URI", "RATELIMIT_STORAGE_URL", "LLM_API_METRICS_OWNER"),
}
# What Kubernetes tells pods of a Service that is called llm-api.
SERVICE_LINK = re.compile(r"LLM_API_(SERVICE_\w+=|PORT_\d\w+=|PORT=tcp://)")
# Other programs' names for the same, and one of our own that is gone: all workers have threads.
ELSEWHERE = {
    "WORKER_CLASS": "THREADS",
    **{"PORT": "BIND=HOST:PORT", "OLLAMA_BASE_URL": "OLLAMA_URL", "OPENAI_API_BASE": "OPENAI_BASE_URL"},
    **{"ANTHROPIC_API_BASE": "CLAUDE_BASE_URL", "OPENAI_KEY": "OPENAI_API_KEY", "CLAUDE_KEY": "CLAUDE_API_KEY"},
}
Field = dataclasses.Field[Any]

logger = logging.getLogger(__name__)


def setting(default: Any, rule: Rule, *, other_names: tuple[str, ...] = ()) -> Any:
    """Declare one setting; `other_names` are the vendor's own variables, read where ours is unset."""
    metadata = {"rule": rule, "other_names": other_names}
    return dataclasses.field(default=default, repr=not rule.hides, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """The settings of one service. A field's environment variable is its name in capitals.

    docs/settings.md says what each does, and in which unit it is.
    """

    # What this process runs with, where gunicorn.conf.py has read the settings for all workers.
    running: ClassVar[Settings | None] = None

    llm_backend: str = setting("ollama", rules.BACKEND)
    llm_fallback: tuple[str, ...] = setting(("stub",), rules.CHAIN)
    ollama_model: str = setting("llama2", rules.TEXT)
    ollama_embed_model: str = setting("nomic-embed-text", rules.TEXT)
    ollama_url: str = setting("http://localhost:11434", rules.OLLAMA_ADDRESS, other_names=("OLLAMA_HOST",))
    ollama_extra_body: Mapping[str, Any] | None = setting(None, rules.EXTRA_BODY)
    ollama_extra_headers: Mapping[str, str] | None = setting(None, rules.EXTRA_HEADERS)
    hf_mode: str = setting("local", one_of("local", "cloud"))
    hf_model: str | None = setting(None, rules.TEXT)
    hf_embed_model: str = setting("sentence-transformers/all-MiniLM-L6-v2", rules.TEXT)
    hf_mmproj: str | None = setting(None, rules.TEXT)
    hf_system: str = setting("You are a helpful assistant.", rules.PROSE)
    hf_context: int = setting(4096, number(int, 256, 1_048_576))
    hf_slots: int = setting(8, number(int, 1, 64))
    hf_threads: int | None = setting(None, number(int, 1, 512))
    hf_api_key: str | None = setting(None, rules.SECRET, other_names=("HF_TOKEN",))
    hf_base_url: str = setting("https://router.huggingface.co/v1", rules.URL)
    hf_extra_body: Mapping[str, Any] | None = setting(None, rules.EXTRA_BODY)
    hf_extra_headers: Mapping[str, str] | None = setting(None, rules.EXTRA_HEADERS)
    openai_api_key: str | None = setting(None, rules.SECRET)
    openai_model: str = setting("gpt-6-luna", rules.TEXT)
    openai_embed_model: str = setting("text-embedding-3-small", rules.TEXT)
    openai_base_url: str = setting("https://api.openai.com/v1", rules.URL)
    openai_extra_body: Mapping[str, Any] | None = setting(None, rules.EXTRA_BODY)
    openai_extra_headers: Mapping[str, str] | None = setting(None, rules.EXTRA_HEADERS)
    claude_api_key: str | None = setting(None, rules.SECRET, other_names=("ANTHROPIC_API_KEY",))
    claude_model: str = setting("claude-haiku-5-5", rules.TEXT)
    claude_base_url: str = setting("https://api.anthropic.com", rules.URL)
    claude_version: str = setting("2023-06-01", rules.DATE)
    claude_extra_body: Mapping[str, Any] | None = setting(None, rules.EXTRA_BODY)
    claude_extra_headers: Mapping[str, str] | None = setting(None, rules.EXTRA_HEADERS)
    replay_file: str | None = setting(None, rules.TEXT)
    replay_miss: str = setting("error", one_of("error", "fallback"))
    fronts: tuple[str, ...] = setting(rules.FRONTS, rules.FRONTS_RULE)
    allow_model_choice: bool = setting(False, rules.BOOLEAN)
    model_aliases: Mapping[str, str] | None = setting(None, rules.ALIASES)
    request_timeout: float = setting(120.0, number(float, 0.1, 3600))
    first_chunk_timeout: float | None = setting(None, number(float, 0.1, 3600))
    connect_timeout: float = setting(5.0, number(float, 0.1, 60))
    max_retries: int = setting(2, number(int, 0, 10))
    max_prompt_chars: int = setting(100_000, number(int, 1, 10_000_000))
    # a largest picture in base64, beside a mebibyte of texts; each thread may hold one body
    max_body_bytes: int = setting(8_388_608, number(int, 1, 100_000_000))
    max_image_bytes: int = setting(5_242_880, number(int, 1, 100_000_000))
    fetch_images: bool = setting(False, rules.BOOLEAN)
    max_concurrency: int | None = setting(None, number(int, 1, 1024))
    api_keys: tuple[ApiKey, ...] = setting((), rules.KEYS)
    operators: tuple[str, ...] = setting((), rules.NAMES)
    allowed_hosts: tuple[str, ...] = setting((), rules.HOSTS)
    rate_limit: str | None = setting(None, rules.RATES)
    rate_limit_storage: str = setting("memory://", rules.STORAGE)
    rate_limit_on_failure: str = setting("memory", one_of("memory", "allow", "deny"))
    trusted_proxies: tuple[Network | None, ...] = setting((), rules.NETWORKS)
    cors_origins: tuple[str, ...] = setting((), rules.ORIGINS)
    http_proxy_url: str | None = setting(None, rules.PROXY)
    log_file: str = setting("logs/log.jsonl", rules.FILE)
    log_prompts: bool = setting(True, rules.BOOLEAN)
    log_max_text: int = setting(100_000, number(int, 0, 10_000_000))
    log_required: bool = setting(True, rules.BOOLEAN)
    log_fsync: bool = setting(False, rules.BOOLEAN)
    log_max_bytes: int = setting(0, number(int, 0, 2**50))
    log_backups: int = setting(5, number(int, 1, 1000))
    traces: bool = setting(False, rules.BOOLEAN)
    trace_texts: bool = setting(False, rules.BOOLEAN)
    bind: str = setting("127.0.0.1:8000", rules.ADDRESS)
    web_concurrency: int | None = setting(None, number(int, 1, 512))
    threads: int = setting(1024, number(int, 1, 1024))

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
        for name in {name for source in earlier for name in source} - _known():
            raise ConfigError(f"{name} is not a setting{_meant(name)}")
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
        host = self.bind.rpartition(":")[0]
        return host not in ("unix", "localhost") and not is_loopback(host)

    @property
    def logs_to_stdout(self) -> bool:
        """Whether the log is standard output, which can't be read back, locked or repaired."""
        return self.log_file in STDOUT

    def public(self) -> dict[str, Any]:
        """Return what /config shows: no secrets, and no user:password of a URL."""
        public = [(field.name, rule) for field in dataclasses.fields(self) if not (rule := _rule(field)).is_secret]
        return {name: rule.shows(getattr(self, name)) for name, rule in public}

    def redact(self, text: str) -> str:
        """Return `text` without the values that must never leave the process, wherever they occur."""
        for secret in self.secrets:
            text = text.replace(secret, REDACTED)
        return text

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """The values that must never leave the process: keys, and passwords in addresses."""
        hiding = [(field.name, hides) for field in dataclasses.fields(self) if (hides := _rule(field).hides)]
        values = [text for name, hides in hiding if (value := getattr(self, name)) for text in hides(value)]
        long = {value for value in values if value and len(value) >= MIN_SECRET_CHARS}
        return tuple(sorted(long, key=len, reverse=True))  # one may be the beginning of another


def _environment(env_file: str | Path | None) -> dict[str, str]:
    """Return the environment; before an `env_file`, without what Flask's command has put there from files.

    It does so where python-dotenv is installed, which reads quotes, `#` and `$` in its own way, and looks in the
    folders above too.
    """
    put: dict[str, str | None] = {}
    if env_file and "FLASK_RUN_FROM_CLI" in os.environ and (dotenv := sys.modules.get("dotenv")):
        for name in (".flaskenv", ".env"):
            put |= dotenv.dotenv_values(dotenv.find_dotenv(name, usecwd=True), encoding="utf-8")
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


def _rule(field: Field) -> Rule:
    rule: Rule = field.metadata["rule"]
    return rule


def _names(field: Field) -> tuple[str, ...]:
    return (field.name.upper(), *field.metadata["other_names"])


@cache
def _known() -> set[str]:
    return {name for field in dataclasses.fields(Settings) for name in _names(field)}


@cache
def _meant(name: str, alike: float = 0.6) -> str:
    close = difflib.get_close_matches(name, _known(), 1, alike)
    return f", did you mean {close[0]}?" if close else ""


def _warn(where: str, said: Mapping[str, str]) -> None:
    """Warn of names that set nothing, and were meant to: they would be ignored silently."""
    known = _known()
    for name, value in said.items():
        plain = name.removeprefix(PREFIX)
        if plain in known or name in FOREIGN or SERVICE_LINK.match(f"{name}={value}"):
            continue
        other = ELSEWHERE.get(plain.upper())
        meant = f", did you mean {other}?" if other else _meant(plain.upper(), ALIKE)
        if meant or plain != name:
            logger.warning("%s: %s is not a setting%s", where, name, meant)


def _read(field: Field, sources: list[Mapping[str, Any]]) -> Any:
    for plain in _names(field):
        for source, name in product(sources, (PREFIX + plain, plain)):
            if text := unquoted(_text(source.get(name), field).strip()):
                return _parse(name, text, field)
    return field.default


def _text(value: Any, field: Field) -> str:
    """Return a value from Python as its environment variable would have it."""
    if isinstance(value, dict):
        return ",".join(map("=".join, value.items())) if _rule(field) is rules.ALIASES else json.dumps(value)
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or ("none" if _rule(field) is rules.CHAIN else "")
    return "" if value is None else str(value)


def _parse(name: str, text: str, field: Field) -> Any:
    rule = _rule(field)
    why = None if rule.is_free else slip(text)
    try:
        if not why:
            return rule.parse(text)
    except ValueError:
        why = f"it must be {rule.allowed}"
    hidden = rule.is_secret or (rule.hides and re.search(r"@|\?.*=[^&]{8}", text))
    raise ConfigError(f"{name}={'its value' if hidden else text!r} is not valid: {why}")


def load(packages: Iterable[str], needed: str) -> None:
    """Import what a setting needs. Raises ConfigError, whose words are `needed`, where a package is missing.

    At the start: of threads that import at their first request some find a package that is half there.
    """
    try:
        for package in packages:
            import_module(package)
    except ImportError:
        raise ConfigError(needed) from None
