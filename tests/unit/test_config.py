"""Settings: every rule's good and bad values, who beats whom, and what /config shows."""

import base64
import dataclasses
import hashlib
import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asking import Serve
from flask import Flask

from llm_api import LLMAPI, Settings
from llm_api.errors import ConfigError
from llm_api.rules import ApiKey

ROOT = Path(__file__).parents[2]
FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
VARIABLES = {n for f in FIELDS.values() for n in (f.name.upper(), *f.metadata["other_names"])}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def load(monkeypatch: pytest.MonkeyPatch, **environ: str) -> Settings:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return Settings.load(None)


URLS = {
    "good": {
        "http://h": "http://h",
        "https://h:8443/v1/": "https://h:8443/v1",
        "http://[::1]:8000/v1": "http://[::1]:8000/v1",
        "http://user:pw@h": "http://user:pw@h",
    },
    "bad": [
        *("h:8000", "ftp://h", "http://", "http:///v1", "http://h:99999", "http://h:x", "http://[::1", "http://h?a=1"),
        *("http://h#a", "//h", "http://two words", "http://h\nost", "http://h\tost", "http://h\u00e9"),
    ],
}
LINES, NO_LINES = {"a": "a", " a b ": "a b", "mistral:7b": "mistral:7b", "é": "é"}, ["a\nb", "a\x00b", "a\x7fb"]
TEXTS = {"good": LINES, "bad": [*NO_LINES, "a;", "a,"]}
PROSE = {"good": LINES | {"a;": "a;"}, "bad": NO_LINES}
BOOLEANS = {
    "good": dict.fromkeys(("true", "True", "yes", "on", "1"), True)
    | dict.fromkeys(("false", "FALSE", "no", "off", "0"), False),
    "bad": ["2", "y es", "wahr", "none"],
}
KEYS = {
    "good": {"sk-a_B.1": "sk-a_B.1", " sk-a \n": "sk-a"},
    "bad": ["sk a", "sk\na", "sk-ä", "sk-\u2026", "a\x7f", "sk-a;", "a;b", "s'k"],
}
BODIES = {
    "good": {
        "{}": {},
        '{"keep_alive": "1h", "options": {"num_ctx": 16384}}': {"keep_alive": "1h", "options": {"num_ctx": 16384}},
        ' {"provider": {"order": ["a"], "allow_fallbacks": false}} ': {
            "provider": {"order": ["a"], "allow_fallbacks": False}
        },
        '{"n": null, "x": 1.5}': {"n": None, "x": 1.5},
    },
    "bad": [
        *("x", "[]", "1", "null", '"a"', "{", "{'a': 1}", '{"a": NaN}', '{"a": 1e999}', "a=1"),
        *('{"messages": []}', '{"stream": true}', '{"stream_options": {}}', '{"api_key": "a"}', '{"x-api-key": "a"}'),
        *('{"Authorization": "a"}', '{"options": {}, "messages": null}'),
    ],
}
HEADERS = {
    "good": {
        "{}": {},
        '{"HTTP-Referer": "https://us.example", "X-Title": "a b"}': {
            "HTTP-Referer": "https://us.example",
            "X-Title": "a b",
        },
        '{"anthropic-beta": "x-2026"}': {"anthropic-beta": "x-2026"},
    },
    "bad": [
        *("x", "[]", "X-Title: a", '{"a": 1}', '{"a": null}', '{"a": ""}', '{"a": " b"}', '{"a": "b\\r\\nc: d"}'),
        *('{"a": "\u00e4"}', '{"a b": "c"}', '{"a:": "c"}', '{"": "c"}', '{"Authorization": "Bearer a"}'),
        *('{"X-API-Key": "a"}', '{"api-key": "a"}', '{"host": "a"}', '{"Content-Length": "1"}', '{"COOKIE": "a"}'),
        *('{"Transfer-Encoding": "chunked"}', '{"Accept-Encoding": "gzip"}', '{"Connection": "close"}'),
    ],
}
NAMES = "ollama, huggingface, openai, claude, stub, replay"
A_BACKEND = f"one of {NAMES}, a plugin's name, or module:Class"
EIGHT = hashlib.sha256(b"12345678").hexdigest()


def whole(low: int, high: int) -> dict[str, Any]:
    return {
        "good": {str(low): low, str(high): high, f" {low} ": low},
        "bad": [str(low - 1), str(high + 1), "1.0", "x", "1e2", "0x10", "1 0", "--1"],
    }


def real(low: float, high: float) -> dict[str, Any]:
    return {
        "good": {str(low): float(low), str(high): float(high), "1": 1.0, "1e1": 10.0},
        "bad": [str(low / 2), str(high + 1), "-1", "nan", "inf", "x", "1,5", "5s"],
    }


RULES: dict[str, dict[str, Any]] = {
    "llm_backend": {
        "good": {name: name for name in NAMES.split(", ")} | {" OpenAI ": "openai", "a.b:Cd": "a.b:Cd"},
        "bad": ["gpt", "none", "ollama,stub", "open ai", "a.b.Cd", "a:b:c", "a b:C", ":C", "a:"],
    },
    "llm_fallback": {
        "good": {
            **{"none": (), "NONE": (), "stub": ("stub",), "openai,stub": ("openai", "stub")},
            **{" Claude , stub": ("claude", "stub"), "a.b:Cd,stub": ("a.b:Cd", "stub")},
        },
        "bad": ["gpt", "stub,stub", "openai,,stub", "stub,", ",", "none,stub", "openai stub", "openai;stub"],
    },
    "ollama_model": TEXTS,
    "ollama_url": {
        "good": URLS["good"] | {"h": "http://h:11434"},
        "bad": [url for url in URLS["bad"] if url not in ("h:8000", "//h")],
    },
    **{f"{vendor}_extra_body": BODIES for vendor in ("ollama", "hf", "openai", "claude")},
    **{f"{vendor}_extra_headers": HEADERS for vendor in ("ollama", "hf", "openai", "claude")},
    "hf_mode": {"good": {"local": "local", "Cloud": "cloud"}, "bad": ["remote", "1"]},
    "hf_model": TEXTS,
    "hf_mmproj": TEXTS,
    "hf_system": PROSE,
    "ollama_embed_model": TEXTS,
    "hf_embed_model": TEXTS,
    "openai_embed_model": TEXTS,
    "fronts": {
        "good": {"openai": ("openai",), "Generate, ollama": ("generate", "ollama")},
        "bad": ["none", "openai;ollama", "openai,,ollama", "claude"],
    },
    "hf_context": whole(256, 1_048_576),
    "hf_slots": whole(1, 64),
    "hf_threads": whole(1, 512),
    "hf_api_key": KEYS,
    "hf_base_url": URLS,
    "openai_api_key": KEYS,
    "openai_model": TEXTS,
    "openai_base_url": URLS,
    "claude_api_key": KEYS,
    "claude_model": TEXTS,
    "claude_base_url": URLS,
    "claude_version": {
        "good": {"2023-06-01": "2023-06-01", "2026-10-21": "2026-10-21"},
        "bad": ["2023", "01-06-2023", "2023-06-01x", "latest", "2023-13-45"],
    },
    "replay_file": {"good": {"/var/log/x.jsonl": "/var/log/x.jsonl"}, "bad": ["a\nb"]},
    "replay_miss": {"good": {"error": "error", "Fallback": "fallback"}, "bad": ["ok", "1"]},
    "allow_model_choice": BOOLEANS,
    "request_timeout": real(0.1, 3600),
    "first_chunk_timeout": real(0.1, 3600),
    "connect_timeout": real(0.1, 60),
    "max_retries": whole(0, 10),
    "max_prompt_chars": whole(1, 10_000_000),
    "max_body_bytes": whole(1, 100_000_000),
    "max_image_bytes": whole(1, 100_000_000),
    "fetch_images": BOOLEANS,
    "log_file": {
        "good": {
            "/var/log/x.jsonl": "/var/log/x.jsonl",
            "a b.jsonl": "a b.jsonl",
            "-": "-",
            "~nobody-here/x": "~nobody-here/x",
        },
        "bad": ["a\nb", "logs/", "/", "x.jsonl;"],
    },
    "log_prompts": BOOLEANS,
    "log_max_text": whole(0, 10_000_000),
    "log_required": BOOLEANS,
    "log_fsync": BOOLEANS,
    "log_max_bytes": whole(0, 2**50),
    "log_backups": whole(1, 1000),
    "traces": BOOLEANS,
    "trace_texts": BOOLEANS,
    "bind": {
        "good": {b: b for b in ("127.0.0.1:8000", "0.0.0.0:80", "[::]:8000", "h:65535", "unix:/run/x.sock")},
        "bad": [
            "8000",
            "localhost",
            "h:",
            ":x",
            "h:99999",
            "h:65536",
            "two words:80",
            "unix:",
            "h:-1",
            "http://h:80",
            "::1:80",
        ],
    },
    "web_concurrency": whole(1, 512),
    "threads": whole(1, 1024),
    "max_concurrency": whole(1, 1024),
    "api_keys": {
        "good": {
            "12345678": (ApiKey("key-ef797c81", EIGHT, "12345678"),),
            "alice:12345678": (ApiKey("alice", EIGHT, "12345678"),),
            " a@b.c-1_:12:45678 ": (ApiKey("a@b.c-1_", hashlib.sha256(b"12:45678").hexdigest(), "12:45678"),),
            f"a:sha256:{EIGHT} , b:sha256:{EIGHT.upper()}": (ApiKey("a", EIGHT), ApiKey("b", EIGHT)),
            f"sha256:{EIGHT},b:12345678": (ApiKey("key-ef797c81", EIGHT), ApiKey("b", EIGHT, "12345678")),
        },
        "bad": [
            *("1234567", "a:1234567", "a:", ":12345678,", ",", "12345678,", "12345678,,a:12345678", "two words"),
            *("a:12345678,a:23456789", "12345678,12345678", "a:1234567\u00e4", "a b:12345678"),
            *("sha256:", "a:sha256:", "a:sha256:0123", f"a:sha256:{EIGHT}0", f"a:sha256:{EIGHT[1:]}g"),
            *("sha256:12345678", "a:12345678\nb:12345678"),
        ],
    },
    "operators": {
        "good": {"alice": ("alice",), " a@b.c-1_ , key-ef797c81": ("a@b.c-1_", "key-ef797c81")},
        "bad": [",", "alice,", "two words", "a:12345678"],
    },
    "allowed_hosts": {
        "good": {
            "*": ("*",),
            "llm.Example.com, *.example.org": ("llm.example.com", "*.example.org"),
            ".example.com": (".example.com",),
            "llm_api,10.0.0.7, [2001:DB8::1]": ("llm_api", "10.0.0.7", "[2001:db8::1]"),
        },
        "bad": [
            ",",
            "a,",
            "https://example.com",
            "example.com/x",
            "a*.example.com",
            "*.*.com",
            "a b",
            "a..b",
            "::1",
            "a:80",
            "a.",
        ],
    },
    "rate_limit": {
        "good": {
            r: r
            for r in (
                *("1/second", "60/minute", "5/hour;100/day", "999999999/day", "1/second;2/minute;3/hour"),
                *("2 per minute", "100/day;10/minute", "100 per 1 day", "60/minutes", "60 /minute", "60/Minute"),
                *("1/minute,2/hour", "1/minute; 2/hour", "5/hour | 2/day", "10 / 2 years", "3/month", "2per5minute"),
            )
        },
        "bad": [
            *("60", "minute", "0/minute", "-1/minute", "1/minute;", ";1/minute", "1.5/minute", "60 a minute"),
            *("60 perminute x", "1/0 minutes", "1 minute", "1/minutess", "01/minute", "1000000000/day", "1/week"),
        ],
    },
    "rate_limit_storage": {
        "good": {
            a: a
            for a in ("memory://", "redis://h", "redis://h:6379/0", "rediss://:pw@h/1", "redis://u:p%40w@[::1]:1/0")
        },
        "bad": [
            *("memory", "redis", "redis://", "redis:///0", "redis://:6379", "http://h", "memcached://h", "redis://h:x"),
            *("redis://h:99999/0", "redis://[::1", "redis+unix:///run/redis.sock", "redis://h/0?socket_timeout=x"),
        ],
    },
    "rate_limit_on_failure": {
        "good": {"memory": "memory", "Allow": "allow", "DENY": "deny"},
        "bad": ["ignore", "true", "memory,allow"],
    },
    "trusted_proxies": {
        "good": {
            "unix": (None,),
            "10.0.0.1": (ipaddress.ip_network("10.0.0.1/32"),),
            "10.0.0.0/8 , unix,::1": (ipaddress.ip_network("10.0.0.0/8"), None, ipaddress.ip_network("::1/128")),
            "2001:db8::/32": (ipaddress.ip_network("2001:db8::/32"),),
            "0.0.0.0/0": (ipaddress.ip_network("0.0.0.0/0"),),
        },
        "bad": [
            *("10.0.0.1/8", "10.0.0", "proxy.example.com", "10.0.0.1,", ",", "10.0.0.1 10.0.0.2", "*", "::1/129"),
            "Unix",
        ],
    },
    "model_aliases": {
        "good": {
            "gpt-4o=default": {"gpt-4o": "default"},
            "*=a, gpt-*=b:7b ,gpt-4*= openai/x , gpt-4 = d": {
                "gpt-4": "d",
                "gpt-4*": "openai/x",
                "gpt-*": "b:7b",
                "*": "a",
            },
        },
        "bad": [
            "gpt-4o",
            "=x",
            "x=",
            "a=b,",
            "a=b=c",
            "a*b=c",
            "**=c",
            "a=b*",
            "a=b,a=c",
            "a b=c",
            'a=b","c=d',
            "a=b;",
        ],
    },
    "cors_origins": {
        "good": {
            "*": ("*",),
            "https://a.example": ("https://a.example",),
            "HTTPS://A.example:8443 , http://localhost:3000": ("https://a.example:8443", "http://localhost:3000"),
            "http://[::1]:3000": ("http://[::1]:3000",),
        },
        "bad": [
            *("a.example", "//a.example", "ftp://a.example", "https://", "https://a.example/", "https://a.example/x"),
            *("null", "https://a.example,", "https://*.example", "https://a.example https://b.example"),
            *("https://u@a.example", "https://a.example;https://b.example", "https://a.example;b.example"),
            'https://a.example","https://b.example',
        ],
    },
    "http_proxy_url": {
        "good": {url: value for url, value in URLS["good"].items() if url.startswith("http:")},
        "bad": [*URLS["bad"], "https://h:8443/v1/"],
    },
}


def rows(kind: str) -> list[Any]:
    return [
        pytest.param(name, *(value if kind == "good" else (value,)), id=f"{name}-{value!r}")
        for name, rule in RULES.items()
        for value in (rule[kind].items() if kind == "good" else rule[kind])
    ]


def test_every_setting_is_in_the_table() -> None:
    """A new setting has no rule that is not tried."""
    assert FIELDS.keys() - RULES.keys() == set()


@pytest.mark.parametrize(("name", "text", "value"), rows("good"))
def test_good_values(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: Any) -> None:
    """A valid text gives this value, and leaves every other setting at its default."""
    settings = load(monkeypatch, **{name.upper(): text})
    assert settings == dataclasses.replace(Settings(), **{name: value})
    assert type(getattr(settings, name)) is type(value)


@pytest.mark.parametrize(("name", "text"), [r for r in rows("bad") if "\x00" not in r.values[1]])
def test_bad_values(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """A wrong text is one line that names the variable, the value (not a key's) and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        load(monkeypatch, **{name.upper(): text})
    line = str(caught.value)
    field = FIELDS[name]
    shown = "its value" if field.metadata["rule"].is_secret else text.strip()
    assert line == f"{name.upper()}={shown!r} is not valid: it must be {field.metadata['rule'].allowed}"
    assert "\n" not in line
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("llm_backend", A_BACKEND),
        ("llm_fallback", "none, or backend names separated by commas, each only once"),
        ("max_body_bytes", "a whole number from 1 to 100,000,000"),
        ("request_timeout", "a number from 0.1 to 3,600"),
        ("log_prompts", "true or false"),
    ],
)
def test_what_is_allowed_is_said_in_words(name: str, allowed: str) -> None:
    """The words name every value or the whole range."""
    assert FIELDS[name].metadata["rule"].allowed == allowed


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_is_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, empty: str) -> None:
    """An empty value is no value, in the environment and in the file."""
    (tmp_path / ".env").write_text(f"{name.upper()}={empty}\n")
    assert Settings.load(tmp_path / ".env") == Settings()
    assert load(monkeypatch, **{name.upper(): empty}) == Settings()


@pytest.mark.parametrize(
    ("environ", "file", "model"),
    [
        ({}, "", "llama2"),
        ({}, "OLLAMA_MODEL=file", "file"),
        ({"OLLAMA_MODEL": "env"}, "", "env"),
        ({"OLLAMA_MODEL": "env"}, "OLLAMA_MODEL=file", "env"),
        ({"OLLAMA_MODEL": ""}, "OLLAMA_MODEL=file", "file"),
        ({"OLLAMA_MODEL": "env"}, "OLLAMA_MODEL=", "env"),
    ],
)
def test_precedence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environ: dict[str, str], file: str, model: str
) -> None:
    """Environment > .env > default, and what is empty does not take part."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".env").write_text(file)
    assert Settings.load(tmp_path / ".env").ollama_model == model


@pytest.mark.parametrize(
    ("theirs", "ours", "field"),
    [("ANTHROPIC_API_KEY", "CLAUDE_API_KEY", "claude_api_key"), ("HF_TOKEN", "HF_API_KEY", "hf_api_key")],
)
def test_vendors_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, theirs: str, ours: str, field: str) -> None:
    """The vendor's variable is read where ours is unset, wherever ours might stand."""
    assert getattr(load(monkeypatch, **{theirs: "their-key"}), field) == "their-key"
    (tmp_path / ".env").write_text(f"{ours}=our-key")
    assert getattr(Settings.load(tmp_path / ".env"), field) == "our-key"
    assert getattr(load(monkeypatch, **{ours: "our-other-key"}), field) == "our-other-key"


def test_a_vendors_name_is_the_one_that_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the variable that the user has set, and no part of the key."""
    with pytest.raises(ConfigError, match=r"^ANTHROPIC_API_KEY='its value' is not valid: ") as caught:
        load(monkeypatch, ANTHROPIC_API_KEY="sk canary")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("h", "http://h:11434"),
        ("h:1234", "http://h:1234"),
        ("h:1234/", "http://h:1234"),
        ("h/path", "http://h:11434/path"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        *((url, url) for url in ("http://h", "https://h", "http://h:1234")),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("http://0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("http://0.0.0.0", "http://127.0.0.1"),
        ("[::]", "http://127.0.0.1:11434"),
        ("[::]:1234", "http://127.0.0.1:1234"),
        ("[::1]:1234", "http://[::1]:1234"),
        ("0.0.0.0.example.com", "http://0.0.0.0.example.com:11434"),
        (":1234", "http://127.0.0.1:1234"),
    ],
)
def test_ollama_host(monkeypatch: pytest.MonkeyPatch, host: str, url: str) -> None:
    """Host, host:port or URL; a bare host means 11434, and an address to bind to becomes the loopback."""
    assert load(monkeypatch, OLLAMA_HOST=host).ollama_url == url


def test_ollama_url_beats_ollama_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own name comes first."""
    assert load(monkeypatch, OLLAMA_HOST="theirs", OLLAMA_URL="http://ours").ollama_url == "http://ours"


@pytest.mark.parametrize(
    ("data", "backend"),
    [
        (b"LLM_BACKEND=stub", "stub"),
        (b"\xef\xbb\xbfLLM_BACKEND=stub\r\n", "stub"),
        (b"# LLM_BACKEND=stub\n\n", "ollama"),
        (b"LLM_BACKEND = 'stub'\n", "stub"),
        (b'LLM_BACKEND="stub"\n', "stub"),
        (b"", "ollama"),
    ],
)
def test_env_file(tmp_path: Path, data: bytes, backend: str) -> None:
    """A byte order mark, Windows line ends, quotes and comments do no harm."""
    (tmp_path / ".env").write_bytes(data)
    assert Settings.load(tmp_path / ".env").llm_backend == backend


def test_an_env_file_that_is_no_utf8(tmp_path: Path) -> None:
    """One line says what to do about a file in another encoding."""
    (tmp_path / ".env").write_bytes("OLLAMA_MODEL=\xe9".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"\.env is not UTF-8 text: save it as UTF-8$"):
        Settings.load(tmp_path / ".env")


def test_an_env_file_that_is_a_folder(tmp_path: Path) -> None:
    """docker makes one of a file that isn't there: it is not passed over."""
    (tmp_path / ".env").mkdir()
    with pytest.raises(ConfigError, match=r"\.env can't be read: Is a directory$"):
        Settings.load(tmp_path / ".env")


def test_no_env_file(tmp_path: Path) -> None:
    """Without a file there are the defaults."""
    assert Settings.load(tmp_path / ".env") == Settings.load(None) == Settings()


def test_load_reads_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without an argument it is the .env where the command is given."""
    (tmp_path / ".env").write_text("LLM_BACKEND=stub")
    monkeypatch.chdir(tmp_path)
    assert Settings.load().llm_backend == "stub"


def test_the_original_defaults_stand() -> None:
    """What the original documented is what one gets without any setting."""
    defaults = Settings()
    assert (defaults.llm_backend, defaults.llm_fallback, defaults.hf_mode) == ("ollama", ("stub",), "local")
    assert (defaults.ollama_model, defaults.ollama_url) == ("llama2", "http://localhost:11434")
    assert (defaults.openai_model, defaults.claude_model) == ("gpt-6-luna", "claude-haiku-5-5")
    assert (defaults.log_file, defaults.log_prompts) == ("logs/log.jsonl", True)
    assert (defaults.hf_system, defaults.allow_model_choice) == ("You are a helpful assistant.", False)


# --- what is shown

SECRETS = {"hf_api_key": "hf-canary-1", "openai_api_key": "sk-canary-2", "claude_api_key": "an-canary-3"}


def test_config_order(make_client: Serve, log_path: Path) -> None:
    """The original's four come first, in its order and with its names."""
    body = make_client(ollama_model="m", ollama_url="http://h:1").get("/config").get_json()
    assert list(body)[:4] == ["backend", "ollama_model", "ollama_url", "log_file"]
    assert [body[name] for name in list(body)[:4]] == ["stub", "m", "http://h:1", str(log_path)]
    secret = {name for name, field in FIELDS.items() if field.metadata["rule"].is_secret}
    assert body.keys() == FIELDS.keys() - secret - {"llm_backend"} | {"backend", "serves"}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:canary@h:1/v1", "http://h:1/v1"),
        ("https://canary@h", "https://h"),
        ("http://user:@h/a@b", "http://h/a@b"),
        ("http://h/v1", "http://h/v1"),
    ],
)
@pytest.mark.parametrize("name", ["ollama_url", "hf_base_url", "openai_base_url", "claude_base_url"])
def test_config_shows_no_credentials(make_client: Serve, name: str, url: str, shown: str) -> None:
    """No key, and no user:password of any address."""
    answer = make_client(**SECRETS | {name: url}).get("/config")
    assert answer.get_json()[name] == shown
    assert "canary" not in answer.text


@pytest.mark.parametrize("name", ["ollama_url", "openai_base_url"])
@pytest.mark.parametrize(
    "text",
    [
        *("http://user:canary@h:99999", "ftp://user:canary@h", "http://user:can/ary@h", "http://user:can?ary@h:x"),
        *("user:canary@h:99999", "http://user:can@ary@h:x", "http://user:can@ary@h"),
        "https://h/v1?api_key=canary-1",
    ],
)
def test_an_error_shows_no_credentials(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """The line about a wrong address goes to a terminal or a journal: without its password."""
    with pytest.raises(ConfigError) as caught:
        load(monkeypatch, **{name.upper(): text})
    assert str(caught.value).startswith(f"{name.upper()}=")
    assert "canary" not in str(caught.value)
    assert "ary@" not in str(caught.value)


def test_secrets() -> None:
    """What must never leave the process: keys, and passwords in addresses, also decoded and as HTTP sends them."""
    settings = Settings(**SECRETS, ollama_url="http://u:pw-canary-4@h", openai_base_url="https://u:pw%20canary@h")
    sent = {base64.b64encode(login).decode() for login in (b"u:pw-canary-4", b"u:pw canary")}
    assert set(settings.secrets) == {*SECRETS.values(), "pw-canary-4", "pw%20canary", "pw canary"} | sent


def test_a_placeholder_is_no_secret() -> None:
    """What is shorter than eight characters would be found in any text."""
    assert Settings(openai_api_key="1234567", claude_api_key="12345678").secrets == ("12345678",)


def test_not_every_text_with_an_at_sign_is_an_address() -> None:
    """A model or a path may have one, and even look like half an address."""
    assert Settings(ollama_model="//[me@home", log_file="//a:12345678@b").secrets == ()


@pytest.mark.parametrize("line", ["LLM_BACKEND stub", "export LLM_BACKEND=stub", "LLM BACKEND=stub", "=stub"])
def test_a_line_that_would_do_nothing_ends_the_start(tmp_path: Path, line: str) -> None:
    """A slip in .env is named, with its line, instead of being passed over."""
    (tmp_path / ".env").write_text(f"# a comment\n{line}\nMY_OWN=1\n")
    with pytest.raises(ConfigError, match="line 2: write NAME=value, without export"):
        Settings.load(tmp_path / ".env")


# --- names

MEANT = {
    "API_KEY": "API_KEYS",
    "WORKER_CLASS": "THREADS",
    "LLM_BACKED": "LLM_BACKEND",
    "llm_backend": "LLM_BACKEND",
    "Llm_Backend": "LLM_BACKEND",
    "ollama_host": "OLLAMA_HOST",
    "OPENAI_API_KEYS": "OPENAI_API_KEY",
    "OPENAI_MODELS": "OPENAI_MODEL",
    "CORS_ORIGIN": "CORS_ORIGINS",
    "TRUSTED_PROXY": "TRUSTED_PROXIES",
    "CONNECTION_TIMEOUT": "CONNECT_TIMEOUT",
    "RATE_LIMITS": "RATE_LIMIT",
    "LOGFILE": "LOG_FILE",
    "HF_TOKENS": "HF_TOKEN",
    "LLM_API_LOG_FLIE": "LOG_FILE",
    "LLM_API_llm_backend": "LLM_BACKEND",
    "PORT": "BIND=HOST:PORT",
    "port": "BIND=HOST:PORT",
    "LLM_API_PORT": "BIND=HOST:PORT",
    "ANTHROPIC_API_BASE": "CLAUDE_BASE_URL",
    "OLLAMA_BASE_URL": "OLLAMA_URL",
    "OPENAI_API_BASE": "OPENAI_BASE_URL",
    "OPENAI_KEY": "OPENAI_API_KEY",
    "CLAUDE_KEY": "CLAUDE_API_KEY",
}
# Vendors', proxies', gunicorn's, Flask's, Kubernetes', a shell's.
OTHERS = [
    *("OLLAMA_MODELS", "OLLAMA_ORIGINS", "OLLAMA_KEEP_ALIVE", "OLLAMA_API_KEY"),
    *("OLLAMA_PORT", "OLLAMA_SERVICE_HOST", "OLLAMA_PORT_11434_TCP", "HF_HOME"),
    *("HF_ENDPOINT", "HF_HUB_TOKEN", "HF_TOKEN_PATH", "OPENAI_ORG_ID"),
    *("OPENAI_ADMIN_KEY", "OPENAI_API_TYPE", "OPENAI_API_VERSION", "ANTHROPIC_MODEL"),
    *("ANTHROPIC_BASE_URL", "CLAUDE_CONFIG_DIR", "CLAUDECODE", "XAI_API_KEY"),
    *("AZURE_OPENAI_API_KEY", "GEMINI_API_KEY", "HTTP_PROXY", "HTTPS_PROXY"),
    *("http_proxy", "no_proxy", "GUNICORN_CMD_ARGS", "FLASK_APP"),
    *("ANTHROPIC_ADMIN_KEY", "RATELIMIT_STORAGE_URL", "LLM_API_SERVICE_HOST", "LLM_API_SERVICE_PORT_HTTP"),
    *("LLM_API_PORT_80_TCP", "LLM_API_PORT_80_TCP_ADDR"),
    *("RATELIMIT_STORAGE_URI", "LOG_LEVEL", "LOG_PATH", "KUBERNETES_PORT"),
    *("API_URL", "MAX_TOKENS", "TIMEOUT", "OMP_NUM_THREADS"),
    *("PATH", "HOST", "HOSTNAME", "LOGNAME"),
    *("LLM_API_METRICS_OWNER", "MY_OWN"),
]


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what the settings have warned of."""
    return lambda: [entry.getMessage() for entry in caplog.records if entry.name == "llm_api.settings"]


Warned = Callable[[], list[str]]


@pytest.mark.parametrize(("name", "meant"), MEANT.items())
def test_a_name_that_sets_nothing_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, warned: Warned, name: str, meant: str
) -> None:
    """In .env and in the environment: the line says what was meant, and not the value."""
    (tmp_path / ".env").write_text(f"{name}=canary-1")
    assert Settings.load(tmp_path / ".env") == Settings()
    assert warned() == [f"{tmp_path}/.env: {name} is not a setting, did you mean {meant}?"]
    assert load(monkeypatch, **{name: "canary-1"}) == Settings()
    assert warned()[1:] == [f"the environment: {name} is not a setting, did you mean {meant}?"]


def test_an_unknown_name_with_our_prefix_is_a_warning(monkeypatch: pytest.MonkeyPatch, warned: Warned) -> None:
    """It is nobody else's."""
    load(monkeypatch, LLM_API_KEY="canary-1")
    assert warned() == ["the environment: LLM_API_KEY is not a setting"]


def test_other_programs_names_are_theirs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, warned: Warned) -> None:
    """Nothing is said of names that others use, however much they look like ours."""
    (tmp_path / ".env").write_text("".join(f"{name}=1\n" for name in OTHERS))
    assert Settings.load(tmp_path / ".env") == load(monkeypatch, **dict.fromkeys(OTHERS, "1")) == Settings()
    load(monkeypatch, LLM_API_PORT="tcp://10.0.0.1:8000")  # Kubernetes' word on a Service that is called llm-api
    assert warned() == []


@pytest.mark.parametrize("name", FIELDS)
def test_each_slip_of_one_letter_is_a_warning(tmp_path: Path, warned: Warned, name: str) -> None:
    """A letter that is missing, double or wrong, or two that have changed places."""
    known = {field.upper() for field in FIELDS}
    right = name.upper()
    slips = {right[:at] + right[at + 1 :] for at in range(len(right))}
    slips |= {right[:at] + right[at] + right[at:] for at in range(len(right))}
    slips |= {right[:at] + right[at : at + 2][::-1] + right[at + 2 :] for at in range(len(right))}
    slips -= known
    (tmp_path / ".env").write_text("".join(f"{slip}=1\n" for slip in slips))
    Settings.load(tmp_path / ".env")
    missed = slips - {line.split(": ")[1].split()[0] for line in warned()}
    # of a short name too little is left
    assert not missed if len(right) > 6 else len(missed) < len(slips)


@pytest.mark.parametrize("name", ["LOG_FILE", "OLLAMA_MODEL"])
def test_our_prefix_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """LLM_API_ may be in front of each name, and beats the name without; an empty value is none."""
    (tmp_path / ".env").write_text(f"LLM_API_{name}=file")
    field = name.lower()
    assert getattr(Settings.load(tmp_path / ".env"), field) == "file"
    assert getattr(load(monkeypatch, **{name: "plain", f"LLM_API_{name}": ""}), field) == "plain"
    assert getattr(load(monkeypatch, **{name: "plain", f"LLM_API_{name}": "prefixed"}), field) == "prefixed"


def test_the_name_with_our_prefix_is_the_one_that_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one may be right, and somebody else's."""
    with pytest.raises(ConfigError, match=r"^LLM_API_THREADS='x' is not valid: "):
        load(monkeypatch, THREADS="8", LLM_API_THREADS="x")


GENERAL = {name.upper() for name in FIELDS if not name.startswith(("llm_", "ollama_", "hf_", "openai_", "claude_"))}


def in_host(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], **config: str) -> Settings:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    app = Flask("host")
    app.config |= config
    LLMAPI(app)
    return LLMAPI.of(app).settings


def test_general_names_are_the_hosts(monkeypatch: pytest.MonkeyPatch, warned: Warned) -> None:
    """What a host app's environment sets for itself is not read, not even to find it wrong or nearly ours."""
    assert {"LOG_FILE", "RATE_LIMIT", "CORS_ORIGINS", "BIND", "THREADS", "API_KEYS", "LOG_PROMPTS"} <= GENERAL
    environ = dict.fromkeys(GENERAL | {"API_KEY", "PORT", "CORS_ORIGIN", "log_file"}, "the host's own")
    assert in_host(monkeypatch, environ) == Settings()
    assert warned() == []


@pytest.mark.parametrize(("name", "value"), [("THREADS", 3), ("LOG_FILE", "x"), ("LLM_BACKEND", "stub")])
def test_our_prefix_in_a_host_app(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    """Each name with it is ours, after what the host says itself."""
    environ = {f"LLM_API_{name}": str(value)}
    assert in_host(monkeypatch, environ) == dataclasses.replace(Settings(), **{name.lower(): value})
    config = {f"LLM_API_{name}": "openai" if name == "LLM_BACKEND" else "7"}
    assert str(getattr(in_host(monkeypatch, environ, **config), name.lower())) == config[f"LLM_API_{name}"]


def test_providers_names_are_read_in_a_host_app(monkeypatch: pytest.MonkeyPatch, warned: Warned) -> None:
    """They mean the same to all programs; a slip in one is a warning, and so is one in a name with our prefix."""
    names = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN", "LLM_FALLBACK", "OLLAMA_MODEL")
    read = in_host(monkeypatch, dict.fromkeys(names, "stub") | {"OPENAI_API_KEYS": "x", "LLM_API_THREAD": "3"})
    ours = ("openai_api_key", "claude_api_key", "hf_api_key", "ollama_model")
    assert read == dataclasses.replace(Settings(), llm_fallback=("stub",), **dict.fromkeys(ours, "stub"))
    assert [line.split()[2] for line in warned()] == ["OPENAI_API_KEYS", "LLM_API_THREAD"]


# --- values as people write them


@pytest.mark.parametrize("quote", ['"', "'"])
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("OPENAI_API_KEY", "sk-1", "sk-1"),
        (
            "API_KEYS",
            "alice:secret-key-1",
            (ApiKey("alice", hashlib.sha256(b"secret-key-1").hexdigest(), "secret-key-1"),),
        ),
        ("THREADS", " 8 ", 8),
        ("LLM_FALLBACK", "openai, stub", ("openai", "stub")),
        ("OPENAI_BASE_URL", "https://h/v1", "https://h/v1"),
        ("HF_SYSTEM", 'Use # and \u2028 and it\'s "it"', 'Use # and \u2028 and it\'s "it"'),
        ("OPENAI_EXTRA_BODY", '{"a": "b # c"}', {"a": "b # c"}),
        ("OPENAI_API_KEY", "", None),
    ],
)
def test_quotes_are_taken_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str, value: Any, quote: str
) -> None:
    """docker --env-file leaves them in the environment: what is read there is what is read from .env."""
    (tmp_path / ".env").write_text(f"{name}={quote}{text}{quote}\nLLM_BACKEND=stub\n")
    read = Settings.load(tmp_path / ".env")
    assert (getattr(read, name.lower()), read.llm_backend) == (value, "stub")
    assert getattr(load(monkeypatch, **{name: f"{quote}{text}{quote}"}), name.lower()) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *((text, "a comment needs its own line") for text in ("x # cheap", "x\t#cheap", "# cheap", '"x" # cheap')),
        *((text, "a comment needs its own line") for text in ("x // cheap", "x //cheap", "x ; cheap")),
        *((text, "its quotes are no pair") for text in ('"x', "x'", "`x`", "\u201cx\u201d", "\u2018x", "\"x'")),
    ],
)
@pytest.mark.parametrize(
    "name", ["OPENAI_MODEL", "OPENAI_API_KEY", "API_KEYS", "THREADS", "LOG_FILE", "CLAUDE_BASE_URL"]
)
def test_a_slip_in_a_value_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str, why: str
) -> None:
    """A comment behind a value, and half a pair of quotes, would be sent: the start ends with the reason."""
    shown = "'its value'" if FIELDS[name.lower()].metadata["rule"].is_secret else repr(text)
    (tmp_path / ".env").write_text(f"{name}={text}")
    for read in (lambda: Settings.load(tmp_path / ".env"), lambda: load(monkeypatch, **{name: text})):
        with pytest.raises(ConfigError, match="^" + re.escape(f"{name}={shown} is not valid: {why}") + "$"):
            read()


@pytest.mark.parametrize(
    "text", ['alice:"secret-key-1"', '"alice:secret-1","bob:secret-2"', "a:secret-key-1;b:secret-key-2", "secret'key-1"]
)
def test_separators_and_quotes_are_no_part_of_a_key(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A caller's key is never longer than its caller believes."""
    with pytest.raises(ConfigError, match=r"^API_KEYS='its value' is not valid: "):
        load(monkeypatch, API_KEYS=text)


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_a_newline_ends_a_line(tmp_path: Path, end: str) -> None:
    """What other alphabets and old printers end a line with is a part of the value, or is refused in it."""
    (tmp_path / ".env").write_text(f"HF_SYSTEM=one{end}THREADS=3\nOLLAMA_MODEL=m", newline="")
    if end < " ":
        with pytest.raises(ConfigError, match=r"^HF_SYSTEM="):
            Settings.load(tmp_path / ".env")
    else:
        assert Settings.load(tmp_path / ".env") == Settings(hf_system=f"one{end}THREADS=3", ollama_model="m")


def test_an_env_file_that_cannot_be_read_ends_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .env of somebody else's is an error that says so."""

    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    (tmp_path / ".env").write_text("LLM_BACKEND=stub")
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match="can't be read: Permission denied"):
        Settings.load(tmp_path / ".env")
