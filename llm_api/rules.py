"""How the text of a setting becomes its value: one rule for each kind of setting."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from . import strict_json

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

BACKENDS = ("ollama", "huggingface", "openai", "claude", "stub", "replay")
# The entry points by which installed packages bring backends of their own.
PLUGINS = "llm_api.backends"
FRONTS = ("generate", "openai", "anthropic", "ollama")
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
# Word processors' too.
QUOTES = "\"'`\u2018-\u201f"


@dataclass(frozen=True)
class ApiKey:
    """A key that the service accepts: its name for the log, its SHA-256 in hex, and the key where it is in clear."""

    name: str
    sha256: str
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Rule:
    """How a value is read, hidden and shown: `parse` raises ValueError on what `allowed` does not describe.

    A value that `is_free` may have what elsewhere is a slip: quotes, ` #`. `hides` returns what of a value
    must never leave the process; `shows` what of it /config has, of one that `is_secret` nothing.
    """

    parse: Callable[[str], Any]
    allowed: str
    is_free: bool = False
    is_secret: bool = False
    hides: Callable[[Any], Iterable[str | None]] | None = None
    shows: Callable[[Any], Any] = lambda value: value


def unquoted(text: str) -> str:
    """Return `text` without quotes around it: `docker --env-file` leaves them, and so does a .env."""
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def slip(text: str) -> str | None:
    """Return what a value that is not free has by mistake, or None."""
    if re.search(r"(^|\s)#|\s(//|;)", text):
        return "a comment needs its own line"
    return "its quotes are no pair" if re.search(f"^[{QUOTES}]|[{QUOTES}]$", text) else None


def one_of(*values: str) -> Rule:
    return Rule(lambda text: values[values.index(text.lower())], f"one of {', '.join(values)}")


def number(kind: type[int] | type[float], low: float, high: float) -> Rule:
    def parse(text: str) -> float:
        value = kind(text)
        _hold(low <= value <= high)
        return value

    return Rule(parse, f"a {'whole ' if kind is int else ''}number from {low:,} to {high:,}")


def _hold(truth: object) -> None:
    """Raise ValueError where it does not hold."""
    if not truth:
        raise ValueError


def _parse_boolean(text: str) -> bool:
    _hold(text.lower() in (*TRUE, *FALSE))
    return text.lower() in TRUE


def web_address(text: str) -> SplitResult:
    """Return the parts of an http:// or https:// address. Raises ValueError on what may be read in two ways."""
    parts = urlsplit(text)
    _hold(parts.scheme in ("http", "https") and parts.hostname)
    _ = parts.port  # raises ValueError where it is not a port
    _hold(re.fullmatch(r"[!-~]+", text) and "@" not in parts.netloc.rpartition("@")[0])
    return parts


def _parse_url(text: str) -> str:
    parts = web_address(text)
    _hold(not parts.query and not parts.fragment and not re.search("[,;]http", text))  # which two addresses have
    return text.rstrip("/")


def picture_address(text: str) -> SplitResult:
    """Return the parts of an address that a stranger names. Raises ValueError; user and password are none of ours."""
    parts = web_address(text)
    _hold("@" not in parts.netloc and "\\" not in text)
    return parts


def _parse_proxy(text: str) -> str:
    _hold(text.startswith("http://"))
    return _parse_url(text)


def _parse_ollama_url(text: str) -> str:
    """OLLAMA_HOST may be a host, host:port or URL, and names the address to bind to (ollama, envconfig/config.go)."""
    text = f"127.0.0.1{text}" if text.startswith(":") else text
    url = urlsplit(_parse_url(text if "//" in text else f"http://{text}"))
    port = ":11434" if "//" not in text and url.port is None else ""
    netloc = re.sub(r"^(0\.0\.0\.0|\[::\])(?=:|$)", "127.0.0.1", url.netloc + port)
    return url._replace(netloc=netloc).geturl()


def _parse_date(text: str) -> str:
    _hold(date.fromisoformat(text).isoformat() == text)
    return text


def _parse_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    _hold(re.fullmatch(r"[!-~]+", text) and "/" not in host)  # which a URL has
    _hold(":" not in host or re.fullmatch(r"\[[^][]+\]", host))
    _hold(port if host == "unix" else host and 0 <= int(port) <= 65_535)
    return text


def _parse_backend(text: str) -> str:
    """One of ours, the name of a plugin's entry point, or `package.module:Class`."""
    if text.lower() in BACKENDS:
        return text.lower()
    _hold(re.fullmatch(r"[\w.]+:\w+", text) or entry_points(group=PLUGINS, name=text))
    return text


def _parse_chain(text: str) -> tuple[str, ...]:
    if text.lower() == "none":
        return ()
    names = tuple(map(_parse_backend, _entries(text)))
    _hold(len(set(names)) == len(names))
    return names


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",")]


NAMED = r"(?!sha256:)[\w.@-]{1,64}:"
# What could be a name is none of the key's; a possessive `?+` would say so too, but Debian 12's Python has it wrong.
KEY_ENTRY = re.compile(
    rf"(?:(?P<name>{NAMED})|(?!{NAMED}))"
    r"(?:sha256:(?P<sha256>[0-9a-fA-F]{64})|(?!sha256:)(?P<secret>(?:(?![\"',;])[!-~]){8,}))"
)


def _parse_keys(text: str) -> tuple[ApiKey, ...]:
    """`KEY`, `NAME:KEY` or `NAME:sha256:HEX`, with commas between; a key without a name gets a piece of its hash."""
    keys = tuple(map(_parse_key, _entries(text)))
    _hold(len({key.name for key in keys}) == len(keys))
    return keys


def _parse_key(entry: str) -> ApiKey:
    found = KEY_ENTRY.fullmatch(entry)
    if not found:
        raise ValueError
    digest = (found["sha256"] or hashlib.sha256(found["secret"].encode()).hexdigest()).lower()
    return ApiKey((found["name"] or f"key-{digest[:8]}").rstrip(":"), digest, found["secret"])


# In seconds.
RATE_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "month": 30 * 86_400, "year": 360 * 86_400}
# As `limits` has it, whose strings Flask-Limiter takes (limits.util.parse_many); its month has 30 days, its year 360.
RATE = re.compile(
    rf"\s*([1-9]\d{{0,8}})\s*(requests|tokens)?\s*(?:/|per)\s*([1-9]\d{{0,3}})?\s*({'|'.join(RATE_UNITS)})s?\s*",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True)
class Rate:
    """So many requests, or tokens, in each stretch of `multiple` units; `unit` is one of RATE_UNITS."""

    amount: int
    unit: str
    multiple: int = 1
    counts: str = "requests"

    @property
    def seconds(self) -> int:
        return RATE_UNITS[self.unit] * self.multiple

    def __str__(self) -> str:
        return f"{self.amount}{' tokens' if self.counts == 'tokens' else ''} per {self.multiple} {self.unit}"


def rates(text: str) -> tuple[Rate, ...]:
    """Read `60/minute;100000 tokens/day`, or `60 per minute, 1000 per 1 day`. Raises ValueError."""
    found = [RATE.fullmatch(rate) for rate in re.split("[;,|]", text)]
    _hold(all(found))
    return tuple(_rate(*match.groups()) for match in found if match)


def _rate(amount: str, counts: str | None, multiple: str | None, unit: str) -> Rate:
    return Rate(int(amount), unit.lower(), int(multiple or 1), (counts or "requests").lower())


def _parse_rates(text: str) -> str:
    rates(text)
    return text


# What of a request is ours to say: the conversation, how it is sent, and keys.
OUR_FIELDS = frozenset({"messages", "stream", "stream_options", "api_key", "key"})
KEY_HEADERS = frozenset({"authorization", "proxy-authorization", "x-api-key", "api-key", "cookie"})
FRAMING = frozenset({"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection"})
OUR_HEADERS = KEY_HEADERS | FRAMING | {"accept-encoding", "expect", "te", "trailer", "upgrade"}


def _parse_extra_body(text: str) -> dict[str, Any]:
    fields = _parse_object(text)
    _hold(OUR_FIELDS.isdisjoint(fields) and KEY_HEADERS.isdisjoint(map(str.lower, fields)))
    return fields


def _parse_extra_headers(text: str) -> dict[str, str]:
    headers = _parse_object(text)
    for name, value in headers.items():
        _hold(re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and name.lower() not in OUR_HEADERS)
        _hold(isinstance(value, str) and re.fullmatch(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", value))
    return headers


def _parse_object(text: str) -> dict[str, Any]:
    fields = strict_json.as_object(text)
    if fields is None:
        raise ValueError
    return fields


def _parse_storage(text: str) -> str:
    url = urlsplit(text)
    _ = url.port  # raises ValueError where it is not a port
    _hold(text == "memory://" or (url.scheme in ("redis", "rediss") and url.hostname and not url.query))
    return text


def _parse_file(text: str) -> str:
    _hold(not text.endswith("/"))
    path: str = TEXT.parse(text)
    return os.path.expanduser(path)  # noqa: PTH111  (Path's raises where there is no such user)


def _parse_networks(text: str) -> tuple[Network | None, ...]:
    """None means a unix socket, whose other end has no address."""
    return tuple(None if name == "unix" else ipaddress.ip_network(name) for name in _entries(text))


def unmapped(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address; raises ValueError. To a socket of both families an IPv4 client has an IPv6 one."""
    ip = ipaddress.ip_address(address)
    return getattr(ip, "ipv4_mapped", None) or ip


def is_loopback(host: str) -> bool | None:
    """Return whether an address, which may have brackets, is this machine's own; None for a name."""
    try:
        return unmapped(host.strip("[]")).is_loopback
    except ValueError:
        return None


def _named_networks(networks: tuple[Network | None, ...]) -> list[str]:
    return [str(network or "unix") for network in networks]


# Printable ASCII without quotes and what stands between names.
_NAME = r"(?:(?![*,;=\"'`])[!-~])+"
ALIAS = re.compile(rf"({_NAME}\*?|\*)\s*=\s*({_NAME})")


def _parse_aliases(text: str) -> dict[str, str]:
    """`NAME=MODEL`, with commas between. Exact names come first, then the longest beginnings."""
    entries = [ALIAS.fullmatch(entry) for entry in _entries(text)]
    aliases = {entry[1]: entry[2] for entry in entries if entry}
    _hold(len(aliases) == len(entries))
    return dict(sorted(aliases.items(), key=lambda alias: (alias[0].endswith("*"), -len(alias[0]))))


def _matching(pattern: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        _hold(re.fullmatch(pattern, text))
        return text

    return parse


def _list(pattern: str, clean: Callable[[str], str] = str.lower) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        entries = tuple(map(clean, _entries(text)))
        _hold(all(re.fullmatch(pattern, entry) for entry in entries))
        return entries

    return parse


def basic_credentials(url: SplitResult) -> str | None:
    """Return user:password of an address as HTTP sends it (RFC 7617), None where it has none."""
    if url.username is None:
        return None
    return base64.b64encode(f"{unquote(url.username)}:{unquote(url.password or '')}".encode()).decode()


def passwords(address: str) -> list[str]:
    """Return the password of an address as written, decoded, and as HTTP sends it; [] where it has none."""
    url = urlsplit(address)
    if not url.password:
        return []
    return [url.password, unquote(url.password), basic_credentials(url) or ""]


def texts(value: object) -> list[str]:
    """Return all texts in a JSON value."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in texts(item)]


def _without_password(address: str | None) -> str | None:
    url = urlsplit(address or "")
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl() if "@" in url.netloc else address


_address = partial(Rule, hides=passwords, shows=_without_password)
_secret = partial(Rule, is_secret=True, hides=texts)
BOOLEAN = Rule(_parse_boolean, "true or false")
URL = _address(_parse_url, "an http:// or https:// address")
OLLAMA_ADDRESS = _address(_parse_ollama_url, "an http:// or https:// address")
PROXY = _address(_parse_proxy, "an http:// address")
STORAGE = _address(_parse_storage, "memory:// or redis://HOST:PORT/NUMBER")
BACKEND = Rule(_parse_backend, f"one of {', '.join(BACKENDS)}, a plugin's name, or module:Class")
CHAIN = Rule(_parse_chain, "none, or backend names separated by commas, each only once")
# What a header may carry; it also keeps a key that was pasted with a line break from reaching an exception's text.
SECRET = _secret(_matching(r"((?![\"';])[!-~])+"), "printable ASCII without spaces, quotes and ;")
TEXT = Rule(_matching(r"[^\x00-\x1f\x7f]*[^\x00-\x1f\x7f,;]"), "one line of text, with no , or ; at its end")
FILE = Rule(_parse_file, "the name of a file, or -")
PROSE = Rule(_matching(r"[^\x00-\x1f\x7f]+"), "one line of text", is_free=True)
DATE = Rule(_parse_date, "a date in the form YYYY-MM-DD")
KEYS = _secret(
    _parse_keys,
    "KEY, NAME:KEY or NAME:sha256:HEX, separated by commas; a KEY has 8 characters or more, no quotes, no ;",
    hides=lambda keys: [key.secret for key in keys],
)
RATES = Rule(
    _parse_rates,
    "60/minute, 100000 tokens/day, 2 per minute, 100/2 hours, and so on up to year, separated by semicolons",
    is_free=True,  # it may have ` ;` in it
)
# any of their texts may be a key
EXTRA_BODY = _secret(_parse_extra_body, "a JSON object without messages, stream, stream_options or keys", is_free=True)
EXTRA_HEADERS = _secret(
    _parse_extra_headers, "a JSON object of names and texts, without keys, Host, Content-* and the like", is_free=True
)
NETWORKS = Rule(
    _parse_networks, "addresses, networks such as 10.0.0.0/8, or unix, separated by commas", shows=_named_networks
)
ORIGINS = Rule(
    _list(r"\*|https?://[^/?#\s@,;*\"'`]+"), "* or origins such as https://app.example.com, separated by commas"
)
HOSTS = Rule(
    _list(r"\*|(\*?\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]"),
    "names without a port such as llm.example.com, *.example.com, .example.com or [::1], separated by commas",
)
ALIASES = Rule(
    _parse_aliases, "NAME=MODEL, separated by commas, each name only once; a * at its end stands for any end"
)
FRONTS_RULE = Rule(_list("|".join(FRONTS)), f"some of {', '.join(FRONTS)}, separated by commas")
NAMES = Rule(_list(r"[\w.@-]{1,64}", str), "names of keys in API_KEYS, separated by commas")
ADDRESS = Rule(_parse_address, "HOST:PORT or unix:PATH")
