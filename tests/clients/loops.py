"""What a user of each client writes to have tools called here: `python loops.py "CLIENT WAY" URL`, where they are.

The way has the front, which is OpenAI's Chat Completions where none is named ("responses", "messages", "ollama"), and
"stream" for pieces, "parallel" for two calls at once. Each prints in its last line as JSON what it called and its end:
{"called": [[name, arguments], ...], "answer": ...}.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

CLIENT, _, WAY = sys.argv[1].partition(" ")
URL = sys.argv[2]
HOST = URL.removesuffix("/v1")
IN_A_STREAM = "stream" in WAY
KEY = "unused"
ASKED = "What is the weather in Paris, in c?"
TWO = "What is the weather in Paris and in Rome, in c?"
SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 60}
MODEL = {"model": "default"} | SHORT
called: list[tuple[str, dict[str, Any]]] = []


class Report(BaseModel):
    """The report on the weather in a city."""

    city: str
    unit: Literal["c", "f"]


def weather(city: str, unit: Literal["c", "f"]) -> str:
    """Look up the weather in a city.

    Args:
        city: Its name.
        unit: Of the temperature.
    """
    called.append(("weather", {"city": city, "unit": unit}))
    return f"18 degrees in {city}"


NAMED = {"name": "weather", "description": "Look up the weather."}
PARAMETERS = Report.model_json_schema()
WEATHER = {"type": "function", "function": {**NAMED, "parameters": PARAMETERS}}
CHOICE = "auto" if "parallel" in WAY else "required"


def openai() -> str:
    if "responses" in WAY:
        return _openai_responses()
    messages: list[Any] = [{"role": "user", "content": TWO if "parallel" in WAY else ASKED}]
    message = _complete(messages=messages, tools=[WEATHER], tool_choice=CHOICE, **MODEL)
    messages.append(message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
    for call in message.tool_calls:
        result = weather(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return _complete(messages=messages, tools=[WEATHER], **MODEL).content


def _complete(**fields: Any) -> Any:
    from openai import OpenAI

    client = OpenAI(base_url=URL, api_key=KEY)
    if not IN_A_STREAM:
        return client.chat.completions.create(**fields).choices[0].message
    with client.chat.completions.stream(**fields) as stream:
        return stream.get_final_completion().choices[0].message


def _openai_responses() -> str:
    asked: Any = {"model": "default", "tools": [{"type": "function", **NAMED, "parameters": PARAMETERS}]}
    asked |= {"temperature": 0, "max_output_tokens": 60}
    items: list[Any] = [{"role": "user", "content": TWO if "parallel" in WAY else ASKED}]
    response = _respond(input=items, tool_choice=CHOICE, **asked)
    items += response.output
    for item in response.output:
        if item.type == "function_call":
            result = weather(**json.loads(item.arguments))
            items.append({"type": "function_call_output", "call_id": item.call_id, "output": result})
    return _respond(input=items, **asked).output_text


def _respond(**fields: Any) -> Any:
    from openai import OpenAI

    client = OpenAI(base_url=URL, api_key=KEY)
    if not IN_A_STREAM:
        return client.responses.create(**fields)
    with client.responses.stream(**fields) as stream:
        return stream.get_final_response()


def anthropic() -> str:
    tools = [{**NAMED, "input_schema": PARAMETERS}]
    asked: Any = {"model": "default", "max_tokens": 60, "tools": tools, "extra_body": {"temperature": 0}}
    turns: list[Any] = [{"role": "user", "content": TWO if "parallel" in WAY else ASKED}]
    choice = {"type": "auto" if "parallel" in WAY else "any"}
    message = _message(messages=turns, tool_choice=choice, **asked)
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": weather(**block.input)}
        for block in message.content
        if block.type == "tool_use"
    ]
    turns += [{"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
    return _message(messages=turns, **asked).content[0].text


def _message(**fields: Any) -> Any:
    from anthropic import Anthropic

    client = Anthropic(base_url=HOST, api_key=KEY)
    if not IN_A_STREAM:
        return client.messages.create(**fields)
    with client.messages.stream(**fields) as stream:
        return stream.get_final_message()


def ollama() -> str:
    messages: list[Any] = [{"role": "user", "content": TWO if "parallel" in WAY else ASKED}]
    message = _chat(messages)
    messages.append(message)
    for call in message.tool_calls or ():
        result = weather(**call.function.arguments)
        messages.append({"role": "tool", "tool_name": call.function.name, "content": result})
    return _chat(messages).content


def _chat(messages: list[Any]) -> Any:
    from ollama import Client, Message

    client = Client(HOST, headers={"Authorization": f"Bearer {KEY}"})
    asked: Any = {"model": "default", "messages": messages, "tools": [WEATHER], "options": {"temperature": 0}}
    if not IN_A_STREAM:
        return client.chat(**asked).message
    pieces = [piece.message for piece in client.chat(**asked, stream=True)]
    calls = [call for piece in pieces for call in piece.tool_calls or ()]
    return Message(role="assistant", content="".join(piece.content or "" for piece in pieces), tool_calls=calls)


def langchain() -> str:
    from langchain.agents import create_agent
    from langchain.agents.middleware import wrap_model_call

    @wrap_model_call
    def first_a_call(request: Any, handler: Any) -> Any:
        return handler(request.override(tool_choice=None if called else "any"))

    agent = create_agent(_langchain_model(), [weather], middleware=[first_a_call])
    said: Any = {"messages": [("user", ASKED)]}
    limit: Any = {"recursion_limit": 10}
    if IN_A_STREAM:
        pieces = [piece for piece, _ in agent.stream(said, limit, stream_mode="messages")]
        return "".join(piece.text for piece in pieces if piece.type == "AIMessageChunk")
    return agent.invoke(said, limit)["messages"][-1].text


def _langchain_model() -> Any:
    if "messages" in WAY:
        from langchain_anthropic import ChatAnthropic

        return ChatAnthropic(base_url=HOST, api_key=KEY, model="default", **SHORT)
    if "ollama" in WAY:
        from langchain_ollama import ChatOllama

        return ChatOllama(base_url=HOST, model="default", temperature=0)
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(base_url=URL, api_key=KEY, model="default", use_responses_api="responses" in WAY, **SHORT)


def pydantic_ai() -> dict[str, Any]:
    from pydantic_ai import Agent, ModelSettings, Tool

    async def once(context: Any, definition: Any) -> Any:
        return None if called else definition

    tools, settings = [Tool(weather, prepare=once)], ModelSettings(**SHORT)
    agent = Agent(_pydantic_ai_model(), output_type=Report, tools=tools, model_settings=settings)

    async def streamed() -> Report:
        async with agent.run_stream(ASKED) as result:
            return await result.get_output()

    return (asyncio.run(streamed()) if IN_A_STREAM else agent.run_sync(ASKED).output).model_dump()


def _pydantic_ai_model() -> Any:
    if "messages" in WAY:
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        return AnthropicModel("default", provider=AnthropicProvider(base_url=HOST, api_key=KEY))
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    if "responses" in WAY:
        return OpenAIResponsesModel("default", provider=OpenAIProvider(base_url=URL, api_key=KEY))
    return OpenAIChatModel("default", provider=OpenAIProvider(base_url=URL, api_key=KEY))


def instructor() -> dict[str, Any]:
    from instructor import from_openai
    from openai import OpenAI

    client = from_openai(OpenAI(base_url=URL, api_key=KEY))
    said = [{"role": "user", "content": ASKED}]
    if IN_A_STREAM:
        *_, last = client.create_partial(response_model=Report, messages=said, **MODEL)
        return last.model_dump()
    return client.create(response_model=Report, messages=said, **MODEL).model_dump()


def openai_agents() -> str:
    import agents
    from openai import AsyncOpenAI

    agents.set_tracing_disabled(True)
    model: Any
    if "responses" in WAY:
        model = agents.OpenAIResponsesModel("default", AsyncOpenAI(base_url=URL, api_key=KEY))
    else:
        model = agents.OpenAIChatCompletionsModel("default", AsyncOpenAI(base_url=URL, api_key=KEY))
    settings = agents.ModelSettings(tool_choice="required", **SHORT)
    agent = agents.Agent("reporter", model=model, model_settings=settings, tools=[agents.function_tool(weather)])

    async def streamed() -> str:
        result = agents.Runner.run_streamed(agent, ASKED)
        _ = [event async for event in result.stream_events()]
        return result.final_output

    return asyncio.run(streamed()) if IN_A_STREAM else agents.Runner.run_sync(agent, ASKED).final_output


LLM_MODELS = """
- model_id: here
  model_name: default
  api_base: URL
  supports_tools: true
"""
LLM_TOOLS = """
def weather(city: str, unit: str) -> str:
    "Look up the weather in a city."
    return f"18 degrees in {city}"
"""


def llm() -> str:
    home = Path(tempfile.mkdtemp())
    (home / "extra-openai-models.yaml").write_text(LLM_MODELS.replace("URL", URL))
    # -T is for the tools of packages; one's own come by --functions, and stand before them
    tools = ["--functions", LLM_TOOLS, "-T", "llm_time"]
    way = [] if IN_A_STREAM else ["--no-stream"]
    done = subprocess.run(
        [Path(sys.executable).with_name("llm"), "-m", "here", "--key", KEY, *tools, *way, ASKED],
        env=os.environ | {"LLM_USER_PATH": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def smolagents() -> str:
    from smolagents import OpenAIModel, ToolCallingAgent, tool

    model = OpenAIModel("default", api_base=URL, api_key=KEY, **SHORT)
    agent = ToolCallingAgent([tool(weather)], model, max_steps=2, verbosity_level=0, stream_outputs=IN_A_STREAM)
    return str(agent.run(ASKED))


if __name__ == "__main__":
    answer = globals()[CLIENT]()
    print()  # smolagents' stream leaves its last line open
    print(json.dumps({"called": called, "answer": answer}))
