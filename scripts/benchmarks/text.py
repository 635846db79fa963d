"""Texts to tokens, against open_clip and transformers."""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.data.text import find_vocabulary, open_tokenizer
from common.data.text.peers import peer_files
from common.models import tokens
from common.models.published import DOWNLOADS
from common.system.errors import UserError
from scripts.benchmarks.measure import Work, measure, show

FREQUENT = (
    "a the of on in with and photo man woman dog cat sitting standing red blue street kitchen table plate food riding "
    "bicycle skateboard beach ocean two people playing frisbee near building train large small white black"
)


def text_section(args: argparse.Namespace) -> None:
    """Captions per second of the tokenizers whose vocabularies are there, CLIP's against open_clip and transformers."""
    rows = {"open_clip, CLIP": (peer_tokenizing, "open_clip"), "transformers, CLIP": (peer_tokenizing, "transformers")}
    for name in ("CLIP", "SIGLIP", "SIGLIP2", "LIT"):
        with contextlib.suppress(UserError):
            find_vocabulary(getattr(tokens, name), DOWNLOADS)
            rows[f"common.data.text, {name}"] = (our_tokenizing, name)
    show("50,000 captions of 7 to 14 English words, in batches of 1,000", measure(rows, args.repeats), "captions/s")


def captions(count: int = 50_000) -> list[str]:
    """Sentences of frequent words, with a capital and a full stop."""
    words = FREQUENT.split()
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, rng.integers(7, 15))).capitalize() + "." for _ in range(count)]


def tokenizing(encode: Callable[[list[str]], Any]) -> Work:
    """Captions per second."""
    texts = captions()
    encode(texts[:1000])

    def work() -> float:
        started = time.perf_counter()
        for start in range(0, len(texts), 1000):
            encode(texts[start : start + 1000])
        return len(texts) / (time.perf_counter() - started)

    return work


def our_tokenizing(name: str) -> Work:
    """With the facts of a published model."""
    return tokenizing(open_tokenizer(getattr(tokens, name)).encode)


def peer_tokenizing(name: str) -> Work:
    """CLIP's vocabulary with a peer's code."""
    if name == "open_clip":
        from open_clip.tokenizer import SimpleTokenizer

        return tokenizing(SimpleTokenizer())
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for file, data in peer_files(tokens.CLIP, find_vocabulary(tokens.CLIP, DOWNLOADS))[0].items():
            (Path(folder) / file).write_bytes(data)
        peer = AutoTokenizer.from_pretrained(folder)
    return tokenizing(lambda texts: peer(texts, padding="max_length", truncation=True, return_tensors="np"))
