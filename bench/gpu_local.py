"""The local transformers engine on a GPU: the service with 1, 8, 32 clients beside the library's batching alone.

python -m bench.gpu_local [--clients 1,8,32] [--tokens 96] [--rounds 3]

It makes a Llama of random weights in a temporary folder (1 billion parameters in bf16; on a CPU a tiny one, which only
shows that it works), and fetches nothing. It needs torch and transformers beside the service's own packages. The same
prompts, lengths and sampling on both sides; tokens of the service as its log counts them.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).parents[1]
SYSTEM = "You are a helpful assistant."
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["</s>", "<|system|>", "<|user|>", "<|assistant|>"]
VOCABULARY = 8000
GPU_SHAPE = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
TINY_SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
START_SECONDS = 180


class Row(NamedTuple):
    """One measure: tokens a second of all clients together, and the median of their waits for the first piece."""

    rate: float
    first: float


def prompts(count: int) -> list[str]:
    """Return prompts that differ in each call, so that nobody answers out of a cache."""
    return [f"Story {number} of {time.time()}" for number in range(count)]


def make(folder: Path) -> None:
    """Make the model and its tokenizer."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    base.train_from_iterator((file.read_text() for file in PROJECT.glob("llm_api/**/*.py")), trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=base, eos_token=SPECIAL[0], additional_special_tokens=SPECIAL[1:]
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    is_gpu = torch.cuda.is_available()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=8192, num_key_value_heads=4 if not is_gpu else 8,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True,
        **(GPU_SHAPE if is_gpu else TINY_SHAPE),
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if is_gpu else "cpu"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    count = sum(parameter.numel() for parameter in model.parameters())
    device = torch.cuda.get_device_name(0) if is_gpu else "CPU"
    print(f"{device}; torch {torch.__version__}, transformers {transformers.__version__}; {count / 1e9:.2f} billion")


class Alone:
    """The library's continuous batching, as its own documentation uses it, and nothing around it."""

    def __init__(self, folder: Path) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        is_gpu = torch.cuda.is_available()
        self._torch = torch
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        dtype = torch.bfloat16 if is_gpu else torch.float32
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self._model.to("cuda" if is_gpu else "cpu")
        self._is_gpu = is_gpu

    def start(self) -> None:
        """Begin the batching, after which `generate` may not work any more."""
        import transformers
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        sampling = transformers.GenerationConfig(
            do_sample=True, temperature=0.7, top_p=0.9, eos_token_id=self._tokenizer.eos_token_id, pad_token_id=0
        )
        room = (
            {} if self._is_gpu else {"num_blocks": 128, "max_batch_tokens": 512}
        )  # a CPU's is not measured without psutil
        wanted = ContinuousBatchingConfig(use_cuda_graph=True, per_request_processors=True, **room)
        self._manager = self._model.init_continuous_batching(
            generation_config=sampling, continuous_batching_config=wanted
        )
        self._manager.start()

    def _tokens(self, prompt: str) -> list[int]:
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
        return list(self._tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"])

    def batch(self, clients: int, tokens: int) -> Row:
        """Answer that many requests at once."""
        began, firsts, counts, open_ = time.perf_counter(), dict[str, float](), dict[str, int](), clients
        for prompt in prompts(clients):
            self._manager.add_request(self._tokens(prompt), max_new_tokens=tokens, streaming=True, temperature=0.7)
        while open_:
            output = self._manager.get_result(timeout=60)
            firsts.setdefault(output.request_id, time.perf_counter() - began)
            counts[output.request_id] = len(output.generated_tokens)
            open_ -= output.is_finished()
        return Row(sum(counts.values()) / (time.perf_counter() - began), statistics.median(firsts.values()))

    def generate(self, tokens: int) -> float:
        """Return the tokens a second of `generate`."""
        ids = self._torch.tensor([self._tokens(prompts(1)[0])], device=self._model.device)
        began = time.perf_counter()
        made = self._model.generate(
            input_ids=ids, attention_mask=self._torch.ones_like(ids), max_new_tokens=tokens, do_sample=True,
            temperature=0.7, pad_token_id=0,
        )  # fmt: skip
        return float((made.shape[1] - ids.shape[1]) / (time.perf_counter() - began))


def alone(folder: Path, sizes: list[int], tokens: int, rounds: int) -> None:
    """Print the library's rows, as JSON."""
    engine = Alone(folder)
    engine.generate(8)
    rows = {"seed": [Row(engine.generate(tokens), 0.0) for _ in range(rounds)]}
    engine.start()
    for size in sizes:
        engine.batch(size, tokens)  # makes its graphs
        rows[str(size)] = [engine.batch(size, tokens) for _ in range(rounds)]
    print(json.dumps(rows), flush=True)
    os._exit(0)


class Service:
    """The service under gunicorn, and its clients."""

    def __init__(self, port: int, log: Path) -> None:
        self._port, self._log = port, log

    def ask(self, prompt: str, tokens: int, **more: Any) -> float:
        """Stream one answer; return the seconds to its first line."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0.7, "stream": True, "fallback": False, **more}
        began = time.perf_counter()
        connection.request("POST", "/generate", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        first, after = answer.readline(), time.perf_counter() - began
        if answer.status != 200:
            sys.exit(f"status {answer.status}: {first.decode()}")
        answer.read()
        return after

    def batch(self, clients: int, tokens: int, **more: Any) -> Row:
        """Ask from that many clients at once."""
        seen = len(self._lines())
        with ThreadPoolExecutor(clients) as pool:
            began = time.perf_counter()
            firsts = list(pool.map(lambda prompt: self.ask(prompt, tokens, **more), prompts(clients)))
            seconds = time.perf_counter() - began
        while len(lines := self._lines()) < seen + clients:
            time.sleep(0.01)
        return Row(sum(line["output_tokens"] for line in lines[seen:]) / seconds, statistics.median(firsts))

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def is_up(self) -> bool:
        """Return whether it answers."""
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self._port)).close()
            return True
        return False


@contextmanager
def served(folder: Path, home: Path) -> Iterator[Service]:
    """Run the service with the model; say how long it took to load, and what it said at its end."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_", "HF_"))}
    settings = {
        "LLM_BACKEND": "huggingface", "HF_MODEL": str(folder), "LLM_FALLBACK": "none", "MAX_CONCURRENCY": "62",
        "LOG_FILE": str(home / "log.jsonl"), "BIND": f"127.0.0.1:{port}", "HF_HUB_OFFLINE": "1",
        "XDG_RUNTIME_DIR": str(home), "REQUEST_TIMEOUT": "300", "MAX_RETRIES": "0",
    }  # fmt: skip
    output = home / "output.txt"
    command = [sys.executable, "-m", "gunicorn", "wsgi:app"]
    with output.open("wb") as file:
        process = subprocess.Popen(command, cwd=PROJECT, env=kept | settings, stdout=file, stderr=file)
    try:
        service = Service(port, home / "log.jsonl")
        began = time.perf_counter()
        while not service.is_up():
            if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                sys.exit(output.read_text())
            time.sleep(0.1)
        service.ask("Hello", 8)
        print(f"the service's first answer, with loading: {time.perf_counter() - began:.1f} s", flush=True)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        engines = "".join(file.read_text() for file in home.glob("llm-api-*/*/output"))
        said = output.read_text() + engines
        print(f"the service ended with {code}", "and said nothing of an error" if _is_clean(said) else f":\n{said}")


def _is_clean(output: str) -> bool:
    return not any(word in output for word in ("SIGABRT", "Traceback", "terminate called", "rror]"))


def ours(service: Service, sizes: list[int], tokens: int, rounds: int) -> dict[str, list[Row]]:
    """Return the service's rows."""
    service.ask("Hello", 8, seed=1)
    rows = {"seed": [service.batch(1, tokens, seed=1) for _ in range(rounds)]}
    for size in sizes:
        service.batch(size, tokens)
        rows[str(size)] = [service.batch(size, tokens) for _ in range(rounds)]
    return rows


def median(rows: list[Any]) -> Row:
    """Return the rounds' medians."""
    return Row(*map(statistics.median, zip(*rows, strict=True)))


def part(name: str, folder: Path, options: argparse.Namespace) -> str:
    """Run a part of this in a process of its own, which gives the GPU's memory back; return its output."""
    command = [
        sys.executable, "-m", "bench.gpu_local", "--part", name, "--folder", str(folder), "--clients", options.clients,
        "--tokens", str(options.tokens), "--rounds", str(options.rounds),
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    return ran.stdout


def compare(options: argparse.Namespace) -> None:
    """Measure both sides, and print them side by side."""
    sizes = [int(size) for size in options.clients.split(",")]
    with tempfile.TemporaryDirectory(prefix="gpu-local-") as name:
        home = Path(name)
        folder = home / "model"
        print(part("make", folder, options), end="", flush=True)
        base = json.loads(part("alone", folder, options).splitlines()[-1])
        print("the library alone:", {size: round(median(rows).rate) for size, rows in base.items()}, flush=True)
        with served(folder, home) as service:
            rows = ours(service, sizes, options.tokens, options.rounds)
            print("the service:", {size: round(median(some).rate) for size, some in rows.items()}, flush=True)
    print("\n| clients | tokens/s in all | the library alone | of it | first line, s | alone, s |")
    print("|---|---|---|---|---|---|")
    for size in rows:
        mine, its = median(rows[size]), median(base[size])
        label = "1, with a seed (generate)" if size == "seed" else size
        ratio = mine.rate / its.rate
        print(f"| {label} | {mine.rate:.0f} | {its.rate:.0f} | {ratio:.2f} | {mine.first:.3f} | {its.first:.3f} |")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=["make", "alone"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "make":
        make(options.folder)
    elif options.part == "alone":
        alone(options.folder, [int(size) for size in options.clients.split(",")], options.tokens, options.rounds)
    else:
        compare(options)


if __name__ == "__main__":
    main()
