"""Backends behind HTTP. Only these modules touch `requests`."""

from .base import HttpBackend

__all__ = ["HttpBackend"]
