"""Whose fault it is: what providers say when they don't answer, each in its own words, and what it must become."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asking import Log, Serve, ask, error_of, lines_of, outcomes
from providers import (
    CLAUDE,
    OLLAMA,
    OPENAI,
    FarEnd,
    check_fallback,
    claude_error,
    claude_event,
    delta,
    event,
    openai_answer,
    openai_error,
)
from wires import WIRES, Wire

CLUSTER = "http://vllm.example:8000/v1"
CLUSTER_URL = CLUSTER + "/chat/completions"
Json = dict[str, Any]


def vllm_error(message: str, kind: str = "BadRequestError", code: Any = 400) -> Json:
    """Return an error as vLLM, SGLang and llama.cpp have it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


# The context is too small


TOO_LONG = {
    "OpenAI": (
        "This model's maximum context length is 4097 tokens. However, you requested 5000 tokens (1000 in the messages, "
        "4000 in the completion). Please reduce the length of the messages or completion."
    ),
    "OpenAI, Responses": "Your input exceeds the context window of this model. Please adjust your input and try again.",
    "OpenAI, newer": "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000.",
    "Azure": "This model's maximum context length is 8192 tokens, however you requested 10346 tokens.",
    "Anthropic": "prompt is too long: 213462 tokens > 200000 maximum",
    "Anthropic, with the answer": (
        "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length or "
        "`max_tokens` and try again"
    ),
    "Bedrock": "Input is too long for requested model.",
    "Bedrock, Titan": "Too many input tokens. Max input tokens: 8192, request input token count: 9279",
    "Bedrock, Mistral": "This model's maximum context length is 32768 tokens. Please reduce the length of the prompt",
    "Gemini": "The input token count (1196265) exceeds the maximum number of tokens allowed (1048576).",
    "Gemini, newer": "The input token count exceeds the maximum number of tokens allowed 1048576.",
    "Gemini, short": "The request exceeds the maximum number of tokens",
    "Pangu": "超出了模型最大token限制。",
    "Vertex": "Unable to submit request because the input token count is 40000 but model only supports up to 32768. "
    "Reduce the input token count and try again.",
    "vLLM": (
        "You passed 5001 input tokens and requested 16 output tokens. However, the model's context length is only 4096 "
        "tokens, resulting in a maximum input length of 4080 tokens. Please reduce the length of the input prompt."
    ),
    "vLLM, short": "the model's context length is only 4096 tokens",
    "vLLM, engine": "The decoder prompt (length 5001) is longer than the maximum model length of 4096. Make sure that "
    "`max_model_len` is no smaller than the number of text tokens.",
    "vLLM, v0": "The prompt (total length 5001) is too long to fit into the model (context length 4096).",
    "vLLM, with an answer that fits": (
        "'max_tokens' or 'max_completion_tokens' is too large: 1000. This model's maximum context length is 4096 "
        "tokens and your request has 4000 input tokens (1000 > 4096 - 4000)."
    ),
    "SGLang": "The input (5001 tokens) is longer than the model's context length (4096 tokens).",
    "SGLang, with the answer": (
        "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of "
        "5000 tokens: 4000 tokens from the input messages and 1000 tokens for the completion."
    ),
    "SGLang, allowed": "Input length (5001 tokens) exceeds the maximum allowed length (4090 tokens).",
    "TGI": "Input validation error: `inputs` must have less than 4096 tokens. Given: 5001",
    "TGI, with the answer": (
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and "
        "1000 `max_new_tokens`"
    ),
    "Together": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097",
    "Together, prompt": "This model's prompt must have less than 4097 tokens. Given: 5001",
    "Together, sum": "Input token count + max_tokens parameter must be less than the context length of the model.",
    "llama.cpp": "the request exceeds the available context size, try increasing it",
    "llama.cpp, newer": "request (5001 tokens) exceeds the available context size (4096 tokens), try increasing it",
    "llama.cpp, writing": "Context size has been exceeded.",
    "llama-cpp-python": "Requested tokens (5001) exceed context window of 4096",
    "Ollama": "the input length exceeds the context length",
    "Ollama, newer": "prompt too long; exceeded max context length by 905 tokens",
    "LM Studio": (
        "Trying to keep the first 5001 tokens when context the overflows. However, the model is loaded with context "
        "length of only 4096 tokens, which is not enough. The number of tokens to keep from the initial prompt is "
        "greater than the context length."
    ),
    "LM Studio, short": "The number of tokens to keep from the initial prompt is greater than the context length.",
    "Mistral": "Prompt contains 66385 tokens, too large for model with 32768 maximum context length",
    "Groq": "Please reduce the length of the messages or completion.",
    "Cohere": "too many tokens: total number of tokens in the prompt cannot exceed 8192 - received 9000.",
    "xAI": "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
    "OpenRouter": "This endpoint's maximum context length is 163840 tokens. You requested about 200000.",
    "DeepSeek": "This model's maximum context length is 65536 tokens. However, you requested 70000 tokens.",
    "Moonshot": "Invalid request: Your request exceeded model token limit: 262144 (requested: 270000)",
    "MiniMax": "invalid params, context window exceeds limit (2013)",
    "Zhipu": "Prompt exceeds max length",
    "DashScope": "Range of input length should be [1, 6000]",
    "Copilot": "prompt token count of 140000 exceeds the limit of 128000",
    "Fireworks": "The prompt is too long: 140000, model maximum context length: 131071",
    "Novita": "Input length 5001 exceeds the maximum allowed input length of 4096 tokens.",
    "Qianfan": "Prompt tokens too long",
    "Cerebras": "Current length is 9000 while limit is 8192. Please reduce the length of the messages or completion.",
    "Databricks": "Input length (265330) exceeds model's maximum context length (262144).",
    "TensorRT": "Prompt length (5001) exceeds maximum input length (4096). Set log level to info",
    "LiteLLM": "litellm.ContextWindowExceededError: ContextWindowExceededError: the input is longer than it may be",
    "Volcengine": "Total tokens of image and text exceed max message tokens",
    "DS4": "Prompt has 300,000 tokens, but the configured context size is 131,072 tokens",
    "Foundry": "tokens in request more than max tokens allowed",
}


@pytest.mark.parametrize("words", TOO_LONG.values(), ids=TOO_LONG)
@pytest.mark.parametrize("status", [400, 422])
def test_context_that_is_too_small(make_client: Serve, far_end: FarEnd, status: int, words: str) -> None:
    """Agents shorten their history on that code, so each server's wording has it, and its words are passed on."""
    far_end.post(CLUSTER_URL, status=status, json=vllm_error(words))
    reply = ask(make_client(**OPENAI.at(CLUSTER), llm_fallback=("stub",)))
    assert (reply.status_code, error_of(reply)["code"]) == (400, "context_length_exceeded")
    assert words.split(". ")[0] in error_of(reply)["message"]


TOO_LONG_BODIES: dict[str, tuple[int, Json | str]] = {
    "llama.cpp's type": (
        400,
        {"error": {"code": 400, "message": "too big", "type": "exceed_context_size_error", "n_prompt_tokens": 9}},
    ),
    "Mistral's": (
        400,
        {"object": "error", "message": TOO_LONG["Mistral"], "type": "invalid_request_error", "code": 3051},
    ),
    "Cohere's": (400, {"message": TOO_LONG["Cohere"]}),
    "Bedrock's": (400, {"message": TOO_LONG["Bedrock"], "__type": "ValidationException"}),
    "Gemini's list": (
        400,
        json.dumps([{"error": {"code": 400, "message": TOO_LONG["Gemini"], "status": "INVALID_ARGUMENT"}}]),
    ),
    "FastAPI's": (422, {"detail": TOO_LONG["SGLang"]}),
    "TGI's": (422, {"error": TOO_LONG["TGI"], "error_type": "validation"}),
    "old vLLM's": (400, {"object": "error", "message": TOO_LONG["vLLM"], "type": "BadRequestError", "code": 400}),
    "OpenRouter's": (
        400,
        {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": TOO_LONG["xAI"]}}},
    ),
    "GitHub's": (413, {"error": {"code": "tokens_limit_reached", "message": "Request body too large. Max size: 8000"}}),
    "Copilot's": (400, openai_error("model_max_prompt_tokens_exceeded", "too much")),
    "a failing server's": (500, vllm_error(TOO_LONG["vLLM, engine"], "InternalServerError", 500)),
}


@pytest.mark.parametrize(("status", "body"), TOO_LONG_BODIES.values(), ids=TOO_LONG_BODIES)
def test_shapes_of_a_context_that_is_too_small(
    make_client: Serve, far_end: FarEnd, status: int, body: Json | str
) -> None:
    """The wording is found in whichever shape a server puts it, and codes are enough without one."""
    far_end.post(CLUSTER_URL, status=status, **({"body": body} if isinstance(body, str) else {"json": body}))
    assert error_of(ask(make_client(**OPENAI.at(CLUSTER))))["code"] == "context_length_exceeded"


OTHERS: dict[str, tuple[int, Json, int, str]] = {
    "TPM": (
        429,
        openai_error("rate_limit_exceeded", "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000", None),
        429,
        "rate_limited",
    ),
    "TPM, large": (
        429,
        openai_error(None, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000"),
        429,
        "rate_limited",
    ),
    "TPM, Groq": (
        413,
        openai_error(
            "rate_limit_exceeded", "Request too large for model `x` on tokens per minute (TPM)", None, "tokens"
        ),
        429,
        "rate_limited",
    ),
    "TPM without a code": (
        400,
        openai_error(None, "Too many tokens: limit of 5000 tokens per minute, please reduce the length of the prompt"),
        429,
        "rate_limited",
    ),
    "max_tokens": (
        400,
        openai_error(None, "max_tokens is too large: 5000. It must be a small number of tokens.", "max_tokens"),
        400,
        "invalid_request_error",
    ),
    "max_tokens, vLLM": (
        400,
        vllm_error(
            "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is 4096 "
            "tokens and your request has 20 input tokens (5000 > 4096 - 20)."
        ),
        400,
        "request_refused",
    ),
    "picture": (
        400,
        vllm_error("The encoder prompt (length 9000) is longer than the maximum model length of 8192."),
        400,
        "request_refused",
    ),
    "stop": (
        400,
        openai_error("array_above_max_length", "too long: 'stop' has 5, 4 at most"),
        400,
        "array_above_max_length",
    ),
    "context canceled": (500, vllm_error("context canceled", "server_error", 500), 502, "server_error"),
    "context deadline": (500, vllm_error("context deadline exceeded", "server_error", 500), 502, "server_error"),
    "tool name": (400, vllm_error("tools[0].name is too long: 65 characters, 64 at most"), 400, "request_refused"),
    "throttled": (400, {"message": "Too many tokens, please wait: throttling", "code": "x"}, 429, "rate_limited"),
}


@pytest.mark.parametrize(("status", "body", "ours", "code"), OTHERS.values(), ids=OTHERS)
def test_what_is_not_too_long(
    make_client: Serve, far_end: FarEnd, status: int, body: Json, ours: int, code: str
) -> None:
    """A shorter history helps neither a rate in tokens a minute nor an answer that may be too long."""
    far_end.post(CLUSTER_URL, status=status, json=body)
    reply = ask(make_client(**OPENAI.at(CLUSTER)))
    assert (reply.status_code, error_of(reply)["code"]) == (ours, code)


# The account, the key, the configured model


CREDIT = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade."
OURS: dict[str, tuple[int, Json, str]] = {
    "Anthropic, no credit": (400, claude_error("invalid_request_error", CREDIT), "rate_limited"),
    "Anthropic, own limit": (
        400,
        claude_error("invalid_request_error", "You have reached your specified API usage limits."),
        "rate_limited",
    ),
    "OpenAI, hard limit": (400, openai_error("billing_hard_limit_reached", "Billing hard limit"), "rate_limited"),
    "OpenAI, inactive": (429, openai_error("billing_not_active", "Your account is not active"), "rate_limited"),
    "DeepSeek, no credit": (402, openai_error("invalid_request_error", "Insufficient Balance"), "rate_limited"),
    "xAI, no credit": (403, {"error": "Your team has used all available credits", "code": "no"}, "rate_limited"),
    "Moonshot, no credit": (
        429,
        openai_error(None, "Your account is suspended", kind="exceeded_current_quota_error"),
        "rate_limited",
    ),
    "Gemini, key": (400, {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}},
                    "bad_credentials"),
    "Gemini, old key": (400, {"error": {"code": 400, "message": "API key expired. Please renew the API key."}},
                        "bad_credentials"),
    "xAI, key": (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***"},
                 "bad_credentials"),
    "OpenAI, key": (400, openai_error("invalid_api_key", "no"), "bad_credentials"),
    "HF, model": (400, openai_error("model_not_found", "no such model"), "model_not_found"),
    "LiteLLM, model": (
        400,
        vllm_error("/chat/completions: Invalid model name passed in model=nope. Call `/v1/models`", "None", "400"),
        "model_not_found",
    ),
    "LiteLLM, object": (
        400,
        {"error": {"message": {"error": "/chat/completions: Invalid model name passed in model=nope"}, "code": "400"}},
        "model_not_found",
    ),
    "Groq, retired": (
        400,
        openai_error("model_decommissioned", "The model `llama3-8b-8192` has been decommissioned"),
        "model_not_found",
    ),
    "Groq, retired, without a code": (
        400,
        openai_error(None, "The model `llama-3.1-8b` has been decommissioned and is no longer supported."),
        "model_not_found",
    ),
    "DeepSeek, model": (400, openai_error("invalid_request_error", "Model Not Exist"), "model_not_found"),
    "OpenRouter, model": (400, {"error": {"message": "x is not a valid model ID", "code": 400}}, "model_not_found"),
    "OpenRouter, nobody": (404, {"error": {"message": "No endpoints found for x.", "code": 404}}, "model_not_found"),
    "Mistral, model": (
        400,
        {"object": "error", "message": "Invalid model: nope", "type": "invalid_model", "code": "1500"},
        "model_not_found",
    ),
    "Azure, deployment": (
        404,
        {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}},
        "model_not_found",
    ),
    "Bedrock, model": (400, {"message": "The provided model identifier is invalid."}, "model_not_found"),
    "LM Studio, nothing": (400, {"error": "No models loaded. Please load a model in the developer page"},
                           "model_not_found"),
    "Cohere, model": (404, {"message": "model 'nope' not found, make sure the correct model ID was used"},
                      "model_not_found"),
    "vLLM, model": (404, vllm_error("The model `nope` does not exist.", "NotFoundError", 404), "model_not_found"),
    "xAI, model": (404, {"error": "The model nope does not exist or your team has no access to it"}, "model_not_found"),
}  # fmt: skip


@pytest.mark.parametrize(("status", "body", "code"), OURS.values(), ids=OURS)
def test_a_refusal_that_is_not_the_clients(
    make_client: Serve, far_end: FarEnd, log_lines: Log, status: int, body: Json, code: str
) -> None:
    """What the account, the key or the configured model is to blame for falls back, whatever its status."""
    for provider in (OPENAI, CLAUDE):
        far_end.post(provider.url, status=status, json=body, headers={"retry-after": "7"})
        reply = ask(make_client(**provider.settings, llm_fallback=("stub",)))
        check_fallback(reply, log_lines()[-1], code, provider.name)


NOT_OURS = {
    "tool": "Tool 'search' not found in the request for this model",
    "format": "This model does not support image input",
    "parameter": "The value of parameter model_kwargs does not exist",
    "credit": "The credit card number in the prompt is invalid",
    "key": "tools[0]: the property key is not valid",
}


@pytest.mark.parametrize("words", NOT_OURS.values(), ids=NOT_OURS)
def test_a_refusal_that_is_the_clients(make_client: Serve, far_end: FarEnd, words: str) -> None:
    """A refusal that mentions models, keys or credit in passing stays the client's."""
    far_end.post(CLUSTER_URL, status=400, json=openai_error("invalid_value", words))
    reply = ask(make_client(**OPENAI.at(CLUSTER), llm_fallback=("stub",)))
    assert (reply.status_code, error_of(reply)["code"]) == (400, "invalid_value")


def test_what_is_said_of_the_account_stays_in_the_log(make_client: Serve, far_end: FarEnd, log_lines: Log) -> None:
    """Clients learn that the quota is used up; whose account it is, and what to do, is for its owner."""
    far_end.post(CLAUDE.url, status=400, json=claude_error("invalid_request_error", CREDIT))
    assert CREDIT not in ask(make_client(**CLAUDE.settings)).get_data(as_text=True)
    assert CREDIT in log_lines()[-1]["error"]["message"]
    ask(make_client(**CLAUDE.settings, llm_fallback=("stub",)))
    assert CREDIT in log_lines()[-1]["attempts"][0]["message"]


# Errors inside an answer


MAXIMUM = "Invalid '{}': string too long. Expected a string with maximum length {}, but got a longer one instead."
WITHIN: dict[str, tuple[Json, int, str]] = {
    "429": ({"error": {"message": "Rate limit exceeded", "code": 429}}, 429, "rate_limited"),
    "429 as text": ({"error": {"message": "Rate limit exceeded", "code": "429"}}, 429, "rate_limited"),
    "rate": (openai_error("rate_limit_exceeded"), 429, "rate_limited"),
    "quota": (openai_error("insufficient_quota"), 503, "rate_limited"),
    "too long": (
        {"error": {"message": "maximum context length is 4096", "code": "context_length_exceeded"}},
        400,
        "context_length_exceeded",
    ),
    "too long in words": ({"error": {"message": TOO_LONG["SGLang"], "code": 400}}, 400, "context_length_exceeded"),
    "bad request": (vllm_error("bad", "BadRequestError", None), 400, "request_refused"),
    "OpenAI's": (openai_error("invalid_value", "bad", "messages"), 400, "invalid_value"),
    "a tool that was not called": (
        openai_error("tool_use_failed", "Tool choice is required, but model did not call a tool"),
        502,
        "invalid_answer",
    ),
    "other JSON": (openai_error("json_validate_failed", "Failed to generate JSON"), 502, "invalid_answer"),
    "a name": (
        openai_error("string_above_max_length", MAXIMUM.format("tools[0].function.name", 64), "tools[0].function.name"),
        400,
        "string_above_max_length",
    ),
    "a long text": (
        openai_error("string_above_max_length", MAXIMUM.format("messages[0].content", 10485760), "messages[0].content"),
        400,
        "context_length_exceeded",
    ),
    "key": (openai_error("invalid_api_key"), 502, "bad_credentials"),
    "401": ({"error": {"message": "User not found.", "code": 401}}, 502, "bad_credentials"),
    "model": (openai_error("model_not_found"), 404, "model_not_found"),
    "overloaded": (openai_error(None, kind="overloaded_error"), 503, "overloaded"),
    "503": ({"error": {"message": "no instance", "code": 503}}, 503, "overloaded"),
    "Google's": ({"error": {"message": "x", "status": "UNAVAILABLE"}}, 503, "overloaded"),
    "timeout": ({"error": {"message": "x", "type": "timeout_error"}}, 504, "timeout"),
    "502": ({"error": {"message": "Provider returned error", "code": 502}}, 502, "server_error"),
    "no more": ({"error": {"message": "failed"}}, 502, "server_error"),
    "text": ({"error": "failed"}, 502, "server_error"),
    "true": ({"error": True}, 502, "server_error"),
    "text with a status": ({"error": "slow down", "status": 429}, 429, "rate_limited"),
    "object": ({"object": "error", "message": "failed", "type": "x", "code": 50001}, 502, "server_error"),
    "object, 400": (
        {"object": "error", "message": "bad", "type": "BadRequestError", "code": 400},
        400,
        "request_refused",
    ),
    "detail": ({"detail": "Internal Server Error"}, 502, "server_error"),
    "details": ({"detail": [{"loc": ["body", "top_p"], "msg": "no"}]}, 400, "request_refused"),
    "message": ({"message": "failed", "code": 500}, 502, "server_error"),
    "msg": ({"code": 429, "msg": "slow down"}, 429, "rate_limited"),
    "base URL": ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, 502, "invalid_answer"),
}


@pytest.mark.parametrize(("body", "status", "code"), WITHIN.values(), ids=WITHIN)
def test_error_inside_an_answer(
    make_client: Serve, far_end: FarEnd, log_lines: Log, body: Json, status: int, code: str
) -> None:
    """An error with status 200, whole or as the first event, is what it would be with the status that it says."""
    far_end.post(CLUSTER_URL, json=body)
    reply = ask(make_client(**OPENAI.at(CLUSTER)))
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)
    reply = ask(make_client(**OPENAI.at(CLUSTER)), stream=True)
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)
    far_end.replace("POST", CLUSTER_URL, body=event(body) + event("[DONE]"))
    reply = ask(make_client(**OPENAI.at(CLUSTER)), stream=True)
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)
    backed = ask(make_client(**OPENAI.at(CLUSTER), llm_fallback=("stub",)), stream=True)
    if status == 400:
        assert backed.status_code == 400
    else:
        assert (backed.headers["X-LLM-Fallback"], log_lines()[-1]["fallback_reason"]) == (code, code)


@pytest.mark.parametrize(("body", "status", "code"), WITHIN.values(), ids=WITHIN)
def test_error_after_the_first_text(
    make_client: Serve, far_end: FarEnd, log_lines: Log, body: Json, status: int, code: str
) -> None:
    """After the first text it is the last line, and the try's outcome; never an end like any other."""
    far_end.post(CLUSTER_URL, body=delta("Hel") + event(body) + event("[DONE]"))
    first, last = lines_of(ask(make_client(**OPENAI.at(CLUSTER), llm_fallback=("stub",)), stream=True))
    assert (first["response"], last["error"]["code"]) == ("Hel", code)
    assert (log_lines()[-1]["status"], outcomes(log_lines()[-1])) == ("error", [("openai", code)])


@pytest.mark.parametrize("wire", WIRES, ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_is_one_on_every_wire(make_client: Serve, far_end: FarEnd, wire: Wire, stream: bool) -> None:
    """No wire takes an error for an answer of a wrong shape."""
    body = {"error": {"message": "slow down", "code": 429}, "type": "error"}
    whole, streamed = json.dumps(body).encode(), event(body) if wire.provider is not OLLAMA else None
    far_end.post(wire.provider.url, body=streamed if stream and streamed else whole)
    reply = ask(make_client(**wire.provider.settings), stream=stream)
    assert (reply.status_code, error_of(reply)["code"]) == (429, "rate_limited")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("overloaded_error", "overloaded"),
        ("rate_limit_error", "rate_limited"),
        ("authentication_error", "bad_credentials"),
        ("billing_error", "rate_limited"),
        ("timeout_error", "timeout"),
        ("api_error", "server_error"),
    ],
)
def test_events_of_anthropic(make_client: Serve, far_end: FarEnd, log_lines: Log, kind: str, code: str) -> None:
    """Anthropic's types are read in streams too."""
    far_end.post(CLAUDE.url, body=claude_event("error", error={"type": kind, "message": "x"}))
    reply = ask(make_client(**CLAUDE.settings, llm_fallback=("stub",)), stream=True)
    assert reply.headers["X-LLM-Fallback"] == code


def test_only_a_limited_rate_is_asked_again(make_client: Serve, far_end: FarEnd, log_lines: Log) -> None:
    """A stream that fails at once may have been billed; one that is refused for its rate has not."""
    far_end.post(CLUSTER_URL, body=event({"error": {"message": "x", "code": 429}}))
    far_end.post(CLUSTER_URL, body=event({"error": {"message": "x", "code": 500}}))
    ask(make_client(**OPENAI.at(CLUSTER), max_retries=2), stream=True)
    assert outcomes(log_lines()[-1]) == [("openai", "rate_limited"), ("openai", "server_error")]


# Codes and reasons


@pytest.mark.parametrize(
    "code", ["BadRequestError", "400", 400, "invalid_argument", "x" * 30, "Error", "1213", "None", "null", None]
)
def test_codes_are_known_ones(make_client: Serve, far_end: FarEnd, code: Any) -> None:
    """A class's name, a number and any other word of a server is no code of ours."""
    far_end.post(CLUSTER_URL, status=400, json={"error": {"message": "no", "type": code, "code": code}})
    assert error_of(ask(make_client(**OPENAI.at(CLUSTER))))["code"] == "request_refused"


@pytest.mark.parametrize("code", ["unsupported_value", "invalid_value", "content_policy_violation", "invalid_prompt"])
def test_known_codes_are_passed_on(make_client: Serve, far_end: FarEnd, code: str) -> None:
    """OpenAI's own codes reach its clients."""
    far_end.post(CLUSTER_URL, status=400, json=openai_error(code))
    assert error_of(ask(make_client(**OPENAI.at(CLUSTER))))["code"] == code


REASONS: dict[str, tuple[Json, str, str | None]] = {
    "FastAPI's": (
        {"detail": [{"type": "x", "loc": ["body", "top_p"], "msg": "Input should be less than 1", "input": 2}]},
        "top_p: Input should be less than 1",
        "top_p",
    ),
    "two of FastAPI's": (
        {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "odd"}, {"loc": ["body", "n"], "msg": "no"}]},
        "messages.0.role: odd; n: no",
        "messages",
    ),
    "FastAPI's text": ({"detail": "no such thing"}, "no such thing", None),
    "a message": ({"message": "no such thing"}, "no such thing", None),
    "Mistral's": (
        {
            "object": "error",
            "message": {"detail": [{"loc": ["body", "stop"], "msg": "odd"}]},
            "type": "x",
            "code": None,
        },
        "stop: odd",
        "stop",
    ),
    "LiteLLM's": ({"detail": {"error": "no such thing"}}, "no such thing", None),
    "msg": ({"code": 1, "msg": "no such thing"}, "no such thing", None),
}


@pytest.mark.parametrize(("body", "words", "param"), REASONS.values(), ids=REASONS)
def test_reasons_in_other_shapes(
    make_client: Serve, far_end: FarEnd, body: Json, words: str, param: str | None
) -> None:
    """The reason is read from whichever shape it has, with the field that it blames."""
    far_end.post(CLUSTER_URL, status=422, json=body)
    error = error_of(ask(make_client(**OPENAI.at(CLUSTER))))
    assert error["message"] == f"openai refused the request: {words}"
    assert (error["code"], error["param"]) == ("request_refused", param)


@pytest.mark.parametrize("depth", [5, 90])
def test_a_deep_reason(make_client: Serve, far_end: FarEnd, depth: int) -> None:
    """A reason that is nested deeper than any server's is left out."""
    body = '{"detail": ' * depth + '"x"' + "}" * depth
    far_end.post(CLUSTER_URL, status=400, body=body)
    assert error_of(ask(make_client(**OPENAI.at(CLUSTER))))["message"] == "openai refused the request"


MEMORY = "model requires more system memory (5.6 GiB) than is available (3.1 GiB)"


def test_why_the_first_one_failed(make_client: Serve, far_end: FarEnd, log_lines: Log) -> None:
    """A failing server's words reach the client, and after a fallback the log."""
    far_end.post(OLLAMA.url, status=500, json={"error": MEMORY})
    message = f"ollama failed (status 500): {MEMORY}"
    assert error_of(ask(make_client(**OLLAMA.settings)))["message"] == message
    ask(make_client(**OLLAMA.settings, llm_fallback=("stub",)))
    assert log_lines()[-1]["error"] is None
    assert log_lines()[-1]["attempts"][0]["message"] == message


# The address


ELSEWHERE: dict[str, tuple[str, Json | str]] = {
    "OpenAI's": ("openai", openai_error(None, "Invalid URL (POST /chat/completions)")),
    "vLLM's": ("openai", {"detail": "Not Found"}),
    "llama.cpp's": ("openai", vllm_error("File Not Found", "not_found_error", 404)),
    "Ollama's": ("openai", "404 page not found"),
    "Azure's": ("openai", {"error": {"code": "404", "message": "Resource not found"}}),
    "Anthropic's": ("claude", claude_error("not_found_error", "Not Found")),
    "Anthropic's, longer": ("claude", claude_error("not_found_error", "Not found: /v1/v1/messages")),
    "empty": ("openai", ""),
}


@pytest.mark.parametrize(("backend", "body"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_wrong_address(make_client: Serve, far_end: FarEnd, backend: str, body: Json | str) -> None:
    """A 404 that names no model is the address's fault, and the message says where to look."""
    provider = {"openai": OPENAI, "claude": CLAUDE}[backend]
    reply = {"body": body} if isinstance(body, str) else {"json": body}
    far_end.post("http://box.example" + provider.path, status=404, **reply)
    error = error_of(ask(make_client(**provider.at("http://box.example"))))
    assert "is the base URL right?" in error["message"]
    assert error["code"] == "invalid_answer"


@pytest.mark.parametrize("address", ["https://api.anthropic.com/v1", "http://box.example/v1"])
def test_claude_at_v1(make_client: Serve, far_end: FarEnd, address: str) -> None:
    """CLAUDE_BASE_URL may end with the /v1 that other vendors' addresses have."""
    far_end.post(address + "/messages", json=CLAUDE.answer("Hello"))
    assert ask(make_client(**CLAUDE.at(address))).json == {"response": "Hello"}


# Streams that are refused


EXTRA = "Extra inputs are not permitted"
NO_OPTIONS: dict[str, tuple[int, Json]] = {
    "OpenAI's": (400, openai_error(None, "Unrecognized request argument supplied: stream_options")),
    "with its name": (400, openai_error("unsupported_parameter", "no", "stream_options")),
    "FastAPI's": (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": EXTRA}]}),
    "Mistral's": (422, {"object": "error", "message": {"detail": [{"loc": ["body", "stream_options"], "msg": EXTRA}]}}),
    "in words": (400, vllm_error("stream_options is not allowed here")),
}  # fmt: skip


@pytest.mark.parametrize(("status", "body"), NO_OPTIONS.values(), ids=NO_OPTIONS)
@pytest.mark.parametrize("provider", [wire.provider for wire in WIRES if wire.streamed.get("stream_options")], ids=str)
def test_stream_options_that_are_refused(
    make_client: Serve, far_end: FarEnd, provider: Any, status: int, body: Json
) -> None:
    """A server that knows no stream_options is asked without, and the next time at once."""
    asked: list[Json] = []

    def reply(request: Any) -> tuple[int, Json, bytes]:
        asked.append(json.loads(request.body))
        refused = "stream_options" in asked[-1]
        return (status, {}, json.dumps(body).encode()) if refused else (200, {}, provider.stream("Hel", "lo"))

    far_end.add_callback("POST", provider.url, reply)
    client = make_client(**provider.settings)
    for _ in range(2):
        assert [line["response"] for line in lines_of(ask(client, stream=True))] == ["Hel", "lo", ""]
    assert ["stream_options" in body for body in asked] == [True, False, False]


NO_STREAM = {
    "not verified": openai_error(
        "unsupported_value", "Your organization must be verified to stream this model. Please go to:", "stream"
    ),
    "without its name": openai_error(None, "Your organization must be verified to stream this model."),
    "another server": vllm_error("Streaming is not supported for this model"),
}


@pytest.mark.parametrize("body", NO_STREAM.values(), ids=NO_STREAM)
def test_a_stream_that_is_refused(make_client: Serve, far_end: FarEnd, log_lines: Log, body: Json) -> None:
    """A model that streams for verified organizations only is asked for the whole, of which the client has a stream."""
    asked: list[Json] = []

    def reply(request: Any) -> tuple[int, Json, str]:
        asked.append(json.loads(request.body))
        refused = asked[-1]["stream"]
        return (400, {}, json.dumps(body)) if refused else (200, {}, json.dumps(openai_answer("Hello")))

    far_end.add_callback("POST", OPENAI.url, reply)
    client = make_client(**OPENAI.settings)
    for _ in range(2):
        lines = lines_of(ask(client, stream=True))
        assert [line["response"] for line in lines] == ["Hello", ""]
        assert lines[-1]["finish_reason"] == "stop"
    assert [(body["stream"], "stream_options" in body) for body in asked] == [
        (True, True),
        (False, False),
        (False, False),
    ]
    assert outcomes(log_lines()[0]) == [("openai", "unsupported_parameter"), ("openai", "ok")]
