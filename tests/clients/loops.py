"""What a user of each client writes to have tools called here: `python loops.py "CLIENT WAY" URL`, where they are.

No way is whole answers, "stream" pieces, "parallel" two calls at once. Each prints in its last line as JSON what it
called and its end: {"called": [[name, arguments], ...], "answer": ...}.
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


WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Look up the weather.", "parameters": Report.model_json_schema()},
}


def openai() -> str:
    asked, choice = (TWO, "auto") if "parallel" in WAY else (ASKED, "required")
    messages: list[Any] = [{"role": "user", "content": asked}]
    message = _ask(messages=messages, tools=[WEATHER], tool_choice=choice, **MODEL)
    messages.append(message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
    for call in message.tool_calls:
        result = weather(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return _ask(messages=messages, tools=[WEATHER], **MODEL).content


def _ask(**fields: Any) -> Any:
    from openai import OpenAI

    client = OpenAI(base_url=URL, api_key=KEY)
    if not IN_A_STREAM:
        return client.chat.completions.create(**fields).choices[0].message
    with client.chat.completions.stream(**fields) as stream:
        return stream.get_final_completion().choices[0].message


def langchain() -> str:
    from langchain.agents import create_agent
    from langchain.agents.middleware import wrap_model_call
    from langchain_openai import ChatOpenAI

    @wrap_model_call
    def first_a_call(request: Any, handler: Any) -> Any:
        return handler(request.override(tool_choice=None if called else "required"))

    model = ChatOpenAI(base_url=URL, api_key=KEY, model="default", **SHORT)
    agent = create_agent(model, [weather], middleware=[first_a_call])
    said: Any = {"messages": [("user", ASKED)]}
    limit: Any = {"recursion_limit": 10}
    if IN_A_STREAM:
        pieces = [piece for piece, _ in agent.stream(said, limit, stream_mode="messages")]
        return "".join(piece.text for piece in pieces if piece.type == "AIMessageChunk")
    return agent.invoke(said, limit)["messages"][-1].content


def pydantic_ai() -> dict[str, Any]:
    from pydantic_ai import Agent, ModelSettings, Tool
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async def once(context: Any, definition: Any) -> Any:
        return None if called else definition

    model = OpenAIChatModel("default", provider=OpenAIProvider(base_url=URL, api_key=KEY))
    agent = Agent(model, output_type=Report, tools=[Tool(weather, prepare=once)], model_settings=ModelSettings(**SHORT))

    async def streamed() -> Report:
        async with agent.run_stream(ASKED) as result:
            return await result.get_output()

    return (asyncio.run(streamed()) if IN_A_STREAM else agent.run_sync(ASKED).output).model_dump()


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
