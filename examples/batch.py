"""Answer a file of prompts, one per line, four at a time. The answers are JSON lines in the same order.

pip install .  &&  LLM_BACKEND=stub python examples/batch.py < prompts.txt > answers.jsonl
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from llm_api import LLMAPI, create_app
from llm_api.errors import LLMAPIError

llm = LLMAPI.of(create_app())


def answer(prompt: str) -> dict[str, object]:
    """Return the result for one prompt."""
    try:
        answered = llm.generate(prompt)
    except LLMAPIError as error:
        return {"prompt": prompt, "error": error.public()}
    return {"prompt": prompt, "answer": answered.text, "backend": answered.backend}


prompts = [line.strip() for line in sys.stdin if line.strip()]
with ThreadPoolExecutor(4) as pool:
    for result in pool.map(answer, prompts):
        print(json.dumps(result), flush=True)
