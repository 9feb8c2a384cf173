"""Models on this machine (HF_MODE=local)."""
