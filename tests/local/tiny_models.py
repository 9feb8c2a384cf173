"""Make tiny transformers models with random weights: tiny_models.py FOLDER.

FOLDER/chat has a chat template; /no_system has one that refuses a system message, as some do; /no_template has none;
/ends says its end token within three tokens of its answer to "Hello", which the others never say. /gptj has
an attention of its own, which would see the other answers of a batch too. /bytes has single bytes for tokens.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTJConfig, GPTJForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 4096
TEXT = """The service turns a prompt into text. Nothing is lost, and it says who answered. A model that is small and
random still has to be loaded, asked, streamed, stopped and counted like any other. The quick brown fox jumps over the
lazy dog, 0123456789 times; What is the capital of France? Hello! You are a helpful assistant."""
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", additional_special_tokens=special[1:])


def make_byte_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2's and Gemma's are: a byte for what the vocabulary has no word for."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁hello", "▁a", "b", "▁"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    made.chat_template = TEMPLATE
    return made


def make_model(vocabulary: int, end: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=end,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.suppress_tokens = [end]
    return model


def make_gptj(vocabulary: int, end: int) -> GPTJForCausalLM:
    torch.manual_seed(0)
    config = GPTJConfig(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, rotary_dim=8, eos_token_id=end)
    model = GPTJForCausalLM(config)
    model.generation_config.suppress_tokens = [end]
    with torch.no_grad():
        for weights in model.parameters():  # as they are made, the last token alone decides
            weights.mul_(8 if weights.dim() > 1 else 1)
    return model


def main() -> None:
    folder = Path(sys.argv[1])
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), tokenizer.eos_token_id)
    for name, template in (("no_template", None), ("no_system", NO_SYSTEM + TEMPLATE), ("chat", TEMPLATE)):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder / name)
        model.save_pretrained(folder / name)
    byte_tokenizer = make_byte_tokenizer()
    byte_tokenizer.save_pretrained(folder / "bytes")
    make_model(len(byte_tokenizer), byte_tokenizer.eos_token_id).save_pretrained(folder / "bytes")
    tokenizer.save_pretrained(folder / "gptj")
    make_gptj(len(tokenizer), tokenizer.eos_token_id).save_pretrained(folder / "gptj")
    turns = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Hello"}]
    asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**asked, max_new_tokens=3, do_sample=False)
    model.generation_config.eos_token_id = int(answer[0, -1])
    tokenizer.save_pretrained(folder / "ends")
    model.save_pretrained(folder / "ends")


if __name__ == "__main__":
    main()
