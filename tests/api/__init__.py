"""The API against its own description: generated requests, and a generated client."""
