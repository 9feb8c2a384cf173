"""What clients speak. Each dialect translates bodies to the middle language and back; none sees Flask or the log."""

from .anthropic import Messages
from .base import Asked, Dialect
from .generate import Generate
from .ollama import OllamaChat, OllamaEmbed, OllamaEmbeddings, OllamaGenerate
from .openai import ChatCompletions, Completions, Embeddings
from .responses import Responses

# The classes, in the order in which the description of the API shows them.
DIALECTS: tuple[type[Dialect], ...] = (
    *(Generate, ChatCompletions, Completions, Responses, Embeddings, Messages),
    *(OllamaChat, OllamaGenerate, OllamaEmbed, OllamaEmbeddings),
)

__all__ = ["DIALECTS", "Asked", "Dialect"]
