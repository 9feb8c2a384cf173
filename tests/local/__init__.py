"""The engine of a local model: its process, its ends, models by name, and models in transformers."""
