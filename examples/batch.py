"""Answer a file of prompts, one a line, four at once; the answers come as JSON lines in the same order.

pip install .  &&  LLM_BACKEND=stub python examples/batch.py < prompts.txt > answers.jsonl
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from llm_api import LLMAPI, create_app
from llm_api.errors import LLMAPIError

llm = LLMAPI.of(create_app())


def answer(prompt: str) -> dict[str, object]:
    """Return what became of one prompt."""
    try:
        answered = llm.generate(prompt)
    except LLMAPIError as error:
        return {"prompt": prompt, "error": error.public()}
    return {"prompt": prompt, "answer": answered.text, "backend": answered.backend}


prompts = [line.strip() for line in sys.stdin if line.strip()]
with ThreadPoolExecutor(4) as pool:
    for result in pool.map(answer, prompts):
        print(json.dumps(result), flush=True)
