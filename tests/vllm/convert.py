"""Write a GGUF file as a folder that vLLM loads. Run by the Python of build/vllm: convert.py FILE FOLDER."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

source, folder = map(Path, sys.argv[1:])
gguf = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
folder.mkdir(exist_ok=True)
AutoTokenizer.from_pretrained(**gguf).save_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(**gguf, dtype=torch.bfloat16)
# The last layer is the first one again, which a file of safetensors may not have twice.
weights = {name: weight.contiguous() for name, weight in model.state_dict().items() if name != "lm_head.weight"}
save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
del model.config.quantization_config
model.config.save_pretrained(folder)
