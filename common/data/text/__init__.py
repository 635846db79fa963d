"""Texts: prompts, tokens, and texts that are drawn."""
