"""What providers mean when they don't answer: rules over codes, statuses and wordings (docs/providers.md, 1.6)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from ..errors import (
    BackendError,
    BadCredentials,
    InvalidAnswer,
    ModelNotFound,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    ServerError,
    TimedOut,
)


class Rule(NamedTuple):
    """A kind of error and how providers say it.

    That is by one of `codes`, or, with one of `statuses`, in such a `wording`, `unless` that means something else.
    """

    kind: type[RequestRefused] | type[BackendError]
    words: str
    codes: frozenset[str] = frozenset()
    wording: re.Pattern[str] = re.compile(r"(?!)")
    statuses: frozenset[int] = frozenset()
    unless: Callable[[str], object] = re.compile(r"(?!)").search

    def fits(self, status: int, codes: set[str], said: str) -> bool:
        if not self.codes.isdisjoint(codes):
            return True
        return status in self.statuses and bool(self.wording.search(said)) and not self.unless(said)


def _any(*wordings: str) -> re.Pattern[str]:
    return re.compile("|".join(wordings), re.IGNORECASE)


REFUSED = frozenset({400, 413, 422})
# A limit in tokens a minute is about the rate, however long the prompt (Groq says so with 413).
PER_TIME = _any(r"tokens per (minute|day|hour)", r"\bTP[MD]\b", r"rate.?limit", r"too many requests", r"throttl")
# docs/providers.md, 1.7, says which server has which.
TOO_LONG = _any(
    r"(prompt|input|messages?|conversation)( is| are)? too long",
    r"tokens too long",
    r"exceed\w*\W+(the |this |your |its )?(\w+'s |model'?s? )?(available |maximum |max )?context",
    r"context[ _](window|length|size)( has been| is)?[ _]?(exceed|full)",
    r"max(imum)? (context|prompt|model|input) length (is|of)",
    r"context length is (only )?\d",
    r"longer than the (model'?s context length|maximum model length)",
    r"greater than the context length",
    r"less than the context length",
    r"(input|prompt)\W+(token )?(count|length|tokens)[^.]{0,40} exceeds? (the )?(max|(configured )?limit|context)",
    r"exceed\w* the maximum (number of tokens|allowed input length)",
    r"exceeds (the )?max(imum)? (prompt |input )?length",
    r"exceeded model token limit",
    r"`?inputs`?( tokens \+ `?max_new_tokens`?)? must (have less than|be <=) \d+",
    r"must have less than \d+ tokens",
    r"too many( input| prompt)? tokens",
    r"token count is \d+ but",
    r"too long to fit",
    r"exceed\w* max (message|input|prompt) tokens",
    r"tokens?, too large for model with",
    r"tokens, but the configured context size is",
    r"range of input length should be",
    r"reduce the length of the (messages|prompt|input)",
    r"tokens in request more than max tokens allowed",
    r"超出.{0,8}最大.{0,8}(token|长度)",
)
# The answer's length is the request's own number, and vLLM's encoder is for pictures: no shorter history helps.
OTHERS_TOO_LONG = _any(r"max_\w*tokens\W+is too large", r"\bencoder prompt", r"output_?tokens\W+(is|must|exceed)")
# vLLM's, when there is room for the answer, but not after this prompt.
ROOM = re.compile(r"is too large: (\d+)\D.*maximum context length is (\d+)")


def _is_not_the_prompt(said: str) -> bool:
    room = ROOM.search(said)
    return bool(PER_TIME.search(said) or (OTHERS_TOO_LONG.search(said) and not (room and int(room[1]) < int(room[2]))))


RULES = (
    Rule(
        RateLimited,
        "limits the rate of requests",
        frozenset({"rate_limit_exceeded", "rate_limit_error", "RESOURCE_EXHAUSTED"}),
        PER_TIME,
        REFUSED,
    ),
    Rule(
        QuotaExhausted,
        "has no credit left for this key",
        frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"})
        | {"insufficient_credits", "insufficient_balance", "quota_exceeded", "exceeded_current_quota_error"},
        _any(
            r"credit balance is too low",
            r"insufficient (balance|credits?|funds|quota)",
            r"exceeded your current quota",
            r"(billing|spend(ing)?|usage|credit) (hard )?limit",
            r"no credits? (left|remaining)",
            r"out of credits?",
            r"used all (available|your) credits",
            r"account is not active, please check your billing",
        ),
        REFUSED | {403, 404, 429},
    ),
    Rule(
        BadCredentials,
        "did not accept the key",
        frozenset({"invalid_api_key", "authentication_error", "account_deactivated", "UNAUTHENTICATED"}),
        _any(
            r"(incorrect|invalid) api[ _-]?key",
            r"api[ _-]?key (not|is not|is) (valid|invalid|expired|found)",
            r"api[ _-]?key expired",
            r"organization has been disabled",
        ),
        REFUSED | {404},
    ),
    Rule(
        ModelNotFound,
        "does not have this model",
        frozenset({"model_not_found", "model_not_supported", "model_not_available", "model_decommissioned"})
        | {"model_terms_required", "model_not_active", "invalid_model", "unknown_model", "DeploymentNotFound"},
        _any(
            r"invalid model( name| id|:| identifier)",
            r"model( name| id)?\W+([\w./:@+-]{1,120}\W+)?(does )?not (exist|found)",
            r"model\W+([\w./:@+-]{1,120}\W+)?is (not available|no longer)",
            r"model\W+([\w./:@+-]{1,120}\W+)?has been (decommissioned|deprecated|retired|removed)",
            r"not a valid model",
            r"unknown model",
            r"no such model",
            r"model identifier is invalid",
            r"no models? (is )?loaded",
            r"no endpoints found",
            r"not supported by any provider",
        ),
        REFUSED | {404},
        unless=_any(r"max_\w*tokens", r"\bparameter\b").search,
    ),
    Rule(ModelNotFound, "does not have this model", frozenset(), _any(r"\b(model|deployment)\b"), frozenset({404})),
    Rule(
        RequestRefused,
        "can't take a request of this length",
        frozenset({"context_length_exceeded", "exceed_context_size_error", "model_context_window_exceeded"})
        | {"context_window_exceeded", "model_max_prompt_tokens_exceeded", "tokens_limit_reached", "request_too_large"}
        | {"ContextWindowExceededError", "string_above_max_length"},
        TOO_LONG,
        REFUSED | {500},
        unless=_is_not_the_prompt,
    ),
    Rule(
        InvalidAnswer,
        "has nothing at this address; is the base URL right?",
        frozenset(),
        _any(r"unexpected endpoint or method", r"invalid url", r"^not found\.?$"),
        frozenset({404, 405, 500}),
    ),
)

_BY_STATUS = {
    401: Rule(BadCredentials, "did not accept the key"),
    402: Rule(QuotaExhausted, "has no credit left for this key"),
    403: Rule(BadCredentials, "does not allow this with the key"),
    404: Rule(InvalidAnswer, "has nothing at this address; is the base URL right?"),
    413: Rule(RequestRefused, "can't take a request of this length"),
    429: Rule(RateLimited, "limits the rate of requests"),
    503: Rule(Overloaded, "is overloaded"),
    504: Rule(TimedOut, "took too long"),
    529: Rule(Overloaded, "is overloaded"),
}


def rule_of_status(status: int) -> Rule:
    """Return what an error reply means that says no more than its status (docs/providers.md, 1.6)."""
    if status in (400, 422):
        return Rule(RequestRefused, "refused the request")
    kind, words, *_ = _BY_STATUS.get(status) or (
        Rule(ServerError, "failed")
        if status >= 500 or status in (408, 409)
        else Rule(InvalidAnswer, "answered with an unexpected status")
    )
    return Rule(kind, words if kind is RequestRefused else f"{words} (status {status})")


# The codes of a refusal that are OpenAI's or Anthropic's own, and so known to clients; Groq's are the last two.
REFUSALS = frozenset(
    {
        "invalid_request_error",
        "unsupported_parameter",
        "unsupported_value",
        "invalid_value",
        "invalid_type",
        "invalid_prompt",
        "missing_required_parameter",
        "unknown_parameter",
        "array_above_max_length",
        "array_below_min_length",
        "integer_above_max_value",
        "integer_below_min_value",
        "decimal_above_max_value",
        "decimal_below_min_value",
        "string_below_min_length",
        "content_policy_violation",
        "content_filter",
        "invalid_json_schema",
        "invalid_function_parameters",
        "invalid_image",
        "invalid_image_format",
        "invalid_image_url",
        "invalid_base64_image",
        "image_too_large",
        "image_parse_error",
        "unsupported_image_media_type",
        "image_content_policy_violation",
        "json_validate_failed",
        "tool_use_failed",
    }
)


# The limits of an answer's length, in the words of Anthropic, OpenAI, DeepSeek and DashScope, gateways, Groq.
OUTPUT_LIMIT = _any(
    r"max_tokens: \d+ > (\d+), which is the maximum allowed number of output tokens",
    r"supports at most (\d+) completion tokens",
    r"range of max_tokens (?:is|should be) \[\d+, ?(\d+)\]",
    r"max_\w*tokens \(\d+\) exceeds (?:the )?(?:model's )?maximum output tokens \((\d+)\)",
    r"max_\w*tokens`? must be less than or equal to `?(\d+)",
)


# Anthropic's types, the classes of OpenAI's SDK that vLLM and LiteLLM name, Google's statuses, TGI's kinds.
STATUSES = {
    word: status
    for status, words in {
        400: "badrequest invalidrequest invalidargument failedprecondition outofrange",
        401: "authentication unauthenticated unauthorized",
        402: "billing paymentrequired",
        403: "permission permissiondenied forbidden accessdenied",
        404: "notfound",
        409: "conflict aborted",
        413: "requesttoolarge",
        422: "validation unprocessableentity",
        429: "ratelimit toomanyrequests resourceexhausted throttling",
        503: "overloaded serviceunavailable unavailable serverisoverloaded engineoverloaded slowdown",
        504: "timeout apitimeout deadlineexceeded gatewaytimeout",
    }.items()
    for word in words.split()
}
