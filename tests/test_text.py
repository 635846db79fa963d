"""Texts become the ids, or the pixels, that the original code makes of them: golden values, then peers that run.

`golden/text/unifont_letters.hex` holds the letters of the golden texts from GNU Unifont; `NOTICE` beside it has its license.
"""

import dataclasses
import importlib.util
import inspect
import json
import random
import string
import unicodedata
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import regex
from conftest import ROOT
from processes import run_without

from common.convert import convert
from common.data.text import (
    READERS,
    Renderer,
    Tokenizer,
    bpe,
    find_vocabulary,
    open_tokenizer,
    peers,
    render,
    sentencepiece,
    wordpiece,
)
from common.models import TextConfig, TwoTowersConfig, ViTConfig, tokens
from common.models.cards import Card
from common.models.initial import initial_parameters
from common.models.published import read_manifest
from common.models.tokens import BERT, CLIP, CLIPPO, LIT, SIGLIP, SIGLIP2, SIGLIP_I18N, Text
from common.system.errors import UserError
from common.system.files import digest
from common.weights.source import read_model
from common.weights.writing import write_weights

GOLDEN = Path(__file__).parent / "golden" / "text"
PIECES, WORDS, LETTERS = (
    GOLDEN / name for name in ("tiny_sentencepiece.model", "tiny_bert_vocab.txt", "unifont_letters.hex")
)
TEXTS = [
    "a photo of a cat",
    "A Photo OF Cats.",
    "",
    "   ",
    "the DOG's  toys, it'll\tdo\nwell",
    "Größe café ÀÉ naïve Straße 中文字 日本",
    "12,345 ½ ① ﬁne ™ ‘curly’ “quotes” — dash…",
    "caf\u00e9 against cafe\u0301; soft\u00adhyphen zero\u200bwidth no\u00a0break",
    "&lt;b&gt; Tom &amp;amp; Jerry &quot;x&quot;",
    "ğŸ˜€ âœ” doesnâ€™t",
    "🐱👩‍👩‍👧 emoji",
    "tree_frog under_score #hash @at 100%",
    " ".join(["word"] * 200),
    "donaudampfschifffahrtsgesellschaftskapitänsmützenknopf" * 3,
]


def golden(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def opened(text: Text, path: Path) -> Tokenizer | Renderer:
    return open_tokenizer(dataclasses.replace(text, sha256=None), path)


# --- golden values


@pytest.mark.parametrize("case", golden("sentencepiece")["outputs"]["tokenize"])
def test_sentencepiece_is_big_visions(case):
    """`case` names the arguments of the original's `tokenize`."""
    said = {"pad_value": 0, "lower": True} | eval(f"dict({case})", {"__builtins__": {"dict": dict}})
    end = {"yes": "cut"}.get(said["eos"], said["eos"])
    lower = "ascii" if said["lower"] else "none"
    found = opened(Text("sentencepiece", "a", said["max_len"], said["pad_value"], end, lower, "kept"), PIECES)
    expected = golden("sentencepiece")
    ids = found.encode(expected["texts"])
    assert ids.tolist() == expected["outputs"]["tokenize"][case]
    assert ids.dtype == np.int32 and found.vocab_size == expected["outputs"]["tokenizers.sp"]["vocab_size"]


@pytest.mark.parametrize("length", (5, 16))
def test_wordpiece_is_big_visions(length):
    expected = golden("bert_wordpiece")
    found = opened(dataclasses.replace(LIT, length=length), WORDS)
    assert found.encode(expected["texts"]).tolist() == expected["outputs"][f"max_len={length}"]
    assert found.vocab_size == len(expected["vocab"])


def test_unusual_signs_are_as_in_tensorflow_text():
    """What big_vision calls, in texts that the golden values lack."""
    expected = golden("tensorflow_text")["rows"]
    texts = [row["text"] for row in expected]
    found = opened(LIT, WORDS).encode(texts)
    assert found[:, 1:].tolist() == [row["word_pieces"] for row in expected] and (found[:, 0] == 5).all()
    found = opened(dataclasses.replace(SIGLIP, length=300), PIECES).encode(texts)
    assert found.tolist() == [row["pieces"] + [1] * (300 - len(row["pieces"])) for row in expected]


DRAWN = {
    "image_size=48": {},
    "image_size=64, monospace": {"monospace": True},
    "image_size=48, spacing=2, min_width=6": {"spacing": 2, "min_width": 6},
    "image_size=48, bright text": {"background": 0, "ink": 255},
    "image_size=48, lower=False, max_chars=8": {"most": 8},
}


@pytest.mark.parametrize("case", golden("clippo_unifont")["outputs"])
def test_pixels_are_clippos(case):
    font = render.read_font(LETTERS)
    for text, expected in golden("clippo_unifont")["outputs"][case].items():
        line = text if "lower=False" in case else sentencepiece.ascii_lower(text)
        image = render.render(line, font, expected["shape"][0], **DRAWN[case])
        assert list(image.shape) == expected["shape"] and image.dtype == np.uint8
        assert np.unique(image).tolist() == expected["values"] and (image == image[..., :1]).all()
        is_ink = image[..., 0] == DRAWN[case].get("ink", 0)
        rows = [hex(int("".join("01"[bit] for bit in row), 2)) for row in is_ink.astype(int)]
        assert rows == expected["rows_as_hex (1 = text, most significant bit left)"]


def test_the_renderer_draws_what_its_card_says():
    found = opened(dataclasses.replace(CLIPPO, length=48), LETTERS)
    texts = golden("clippo_unifont")["texts"]
    images = found.encode(texts)
    assert images.shape == (len(texts), 48, 48, 3)
    lines = [sentencepiece.ascii_lower(text) for text in texts]
    assert (images == [render.render(line, render.read_font(LETTERS), 48) for line in lines]).all()
    assert found.encode([]).shape == (0, 48, 48, 3) and (found.encode(["\U0001f431"]) == 127).all()  # no such letter


# --- peers


@pytest.fixture(scope="module")
def merges(tmp_path_factory) -> Path:
    """Merges of a small vocabulary that is trained here, as the file of one looks."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=700, end_of_word_suffix="</w>", show_progress=False,
                                  initial_alphabet=bpe.byte_letters())  # fmt: skip
    made.train_from_iterator([text.lower() for text in TEXTS] * 3, trainer)
    pairs = json.loads(made.to_str())["model"]["merges"]
    path = tmp_path_factory.mktemp("merges") / "merges.txt"
    path.write_text("#version: 0.2\n" + "".join(f"{' '.join(pair)}\n" for pair in pairs))
    return path


def test_byte_pairs_are_open_clips_with_the_published_vocabulary():
    spec = importlib.util.find_spec("open_clip")
    place = Path(spec.submodule_search_locations[0]) / "tokenizer.py"  # all of open_clip would take long to import
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", place)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    found = open_tokenizer(CLIP, folder="nowhere")  # found within the package, by its digest
    peer = module.SimpleTokenizer()
    assert found.vocab_size == peer.vocab_size == 49408
    assert (found.encode(TEXTS) == peer(TEXTS).numpy()).all()
    keen = random.Random(0)
    signs = string.printable + "éßſ'’&;½中🐱\u00a0\u2028"
    lines = ["".join(keen.choices(signs, k=keen.randrange(60))) for _ in range(300)]
    assert (found.encode(lines) == peer(lines).numpy()).all()


def test_printable_ascii_needs_no_repair():
    """What lets most captions go without `ftfy`, which is slow."""
    import ftfy

    keen = random.Random(0)
    signs = [chr(code) for code in range(32, 127) if chr(code) != "&"]
    for _ in range(2000):
        line = "".join(keen.choices(signs, k=keen.randrange(40)))
        assert bpe.PLAIN.fullmatch(line) and bpe.clean(line, ftfy.fix_text) == " ".join(ftfy.fix_text(line).split())
    assert not any(bpe.PLAIN.fullmatch(f"a{sign}") for sign in "&\x00\t\n\x7fé")


def test_byte_pairs_are_hugging_faces(merges):
    from transformers import CLIPTokenizer

    pairs = bpe.read_merges(merges)
    peer = CLIPTokenizer(vocab=bpe.vocabulary(pairs), merges=pairs)
    plain = [
        text for text in TEXTS if bpe.PLAIN.fullmatch(text)
    ]  # others, `ftfy` repairs, which the peer does not call
    found = opened(dataclasses.replace(CLIP, length=20, padding=peer.eos_token_id), merges)
    expected = peer(plain, padding="max_length", max_length=20, truncation=True)["input_ids"]
    assert len(plain) > 5 and found.encode(plain).tolist() == expected


def test_word_pieces_are_hugging_faces():
    from transformers import BertTokenizer

    peer = BertTokenizer(vocab=wordpiece.read_tokens(WORDS))
    found = opened(dataclasses.replace(BERT, length=12), WORDS)
    expected = peer(TEXTS, padding="max_length", max_length=12, truncation=True)["input_ids"]
    assert found.encode(TEXTS).tolist() == expected


def test_pieces_are_hugging_faces():
    from transformers import SiglipTokenizer

    peer = SiglipTokenizer(vocab_file=str(PIECES))
    found = opened(Text("sentencepiece", "a", 24, 1, "sticky", "unicode", "removed"), PIECES)
    expected = peer(TEXTS, padding="max_length", max_length=24, truncation=True)["input_ids"]
    assert found.encode(TEXTS).tolist() == expected


def folded(text: str) -> str:
    """Unicode's NFKC_Casefold (chapter 3.13), without accents, as `tensorflow_text.BertTokenizer(lower_case=True)`."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).casefold()).casefold()
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text))
    text = regex.sub(r"[\p{Mn}\p{Default_Ignorable_Code_Point}]", "", text)
    return regex.sub("[\u1680\u2028\u2029]", "\ue000", regex.sub(r"[\p{Cc}\p{Cf}]", " ", text))


def test_folding_is_unicodes():
    """Of each code point up to Hiragana and of the wide forms; Cherokee and nine old Cyrillic letters stay as they are."""
    import tokenizers

    fold = tokenizers.normalizers.Sequence(wordpiece.folding(tokenizers)).normalize_str
    left = regex.compile(r"[\p{Cherokee}\u1c80-\u1c88]")
    signs = [chr(code) for code in (*range(0x3000), *range(0xFF00, 0xFFF0)) if unicodedata.category(chr(code)) != "Cn"]
    different = [sign for sign in signs if fold(sign) != folded(sign) and not left.fullmatch(sign)]
    assert len(signs) > 10000 and not different


# --- files for peers

SIGLIP_OF_PEERS = dataclasses.replace(SIGLIP, lower="unicode", punctuation="removed")
FOR_PEERS = {
    "siglip": (dataclasses.replace(SIGLIP, length=24), PIECES, "TokenizersBackend", ["input_ids"]),
    "siglip_of_peers": (SIGLIP_OF_PEERS, PIECES, "SiglipTokenizer", ["input_ids"]),
    "removed": (dataclasses.replace(SIGLIP, punctuation="removed"), PIECES, "TokenizersBackend", ["input_ids"]),
    "no_end": (dataclasses.replace(SIGLIP, end="none", lower="none", padding=0), PIECES, "TokenizersBackend", ["input_ids"]),
    "clip": (dataclasses.replace(CLIP, length=20, padding=773), None, "CLIPTokenizer", ["input_ids", "attention_mask"]),
    "lit": (LIT, WORDS, "TokenizersBackend", ["input_ids", "attention_mask"]),
    "bert": (dataclasses.replace(BERT, length=12), WORDS, "BertTokenizer", ["input_ids", "attention_mask"]),
    "cased": (dataclasses.replace(BERT, length=12, lower="none"), WORDS, "BertTokenizer", ["input_ids", "attention_mask"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FOR_PEERS)
def test_hugging_face_agrees_with_our_files(name, merges, tmp_path):
    """Its `AutoTokenizer` asks nothing but the usual words for texts of one length."""
    from transformers import AutoTokenizer

    text, path, kind, inputs = FOR_PEERS[name]
    found, path = opened(text, path or merges), path or merges
    files, notes = peers.peer_files(text, path)
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    peer = AutoTokenizer.from_pretrained(tmp_path)
    keen = random.Random(1)
    words = [*TEXTS[0].split(), *TEXTS[1].split(), *TEXTS[5].split(), "tree_frog", "dogs,", "[CLS]", "running!", "  "]
    lines = TEXTS + [" ".join(keen.choices(words, k=keen.randrange(20))) for _ in range(200)]
    if name == "clip":
        fix = importlib.import_module("ftfy").fix_text
        lines = [line for line in lines if bpe.clean(line, fix) == " ".join(line.split())]
        assert len(lines) > 200 and "repairs no mojibake" in notes[0] and len(notes) == 1
    said = peer(lines, padding="max_length", truncation=True)
    assert type(peer).__name__ == kind and [*said] == inputs
    assert found.encode(lines).tolist() == said["input_ids"]


def test_hugging_face_fills_clips_texts_up_with_its_end(merges, tmp_path):
    """A letter as padding token would be padding within texts; a causal tower that ends at the first end sees no difference."""
    from transformers import AutoTokenizer

    text = dataclasses.replace(CLIP, length=20)
    files, notes = peers.peer_files(text, merges)
    assert "fills texts up with <|endoftext|>" in notes[1]
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    lines = [line for line in TEXTS if line.isascii() and "&" not in line]
    said = np.array(AutoTokenizer.from_pretrained(tmp_path)(lines, padding="max_length", truncation=True)["input_ids"])
    ours = opened(text, merges).encode(lines)
    behind = np.arange(20) > (said == said[0, -1]).argmax(1)[:, None]
    assert (np.where(behind, 0, said) == ours).all() and behind.any() and len(lines) > 4


SMALL_SIGLIP = TwoTowersConfig(
    ViTConfig((8, 8), 32, 1, 2, 64, None, (16, 16), pooling="map"), TextConfig(78, 16, 32, 1, 2, 64, 32)
)


@pytest.mark.parametrize("to", ("huggingface", "huggingface_siglip2"))
def test_a_converted_model_has_its_tokenizer(to, tmp_path):
    """Beside the model that transformers reads; and only if the vocabulary is that of the card."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    text = dataclasses.replace(SIGLIP, length=16, sha256=digest(PIECES))
    write_weights(tmp_path / "a.npz", initial_parameters(0, SMALL_SIGLIP), SMALL_SIGLIP, Card(text=text))
    said = []
    convert(tmp_path / "a.npz", tmp_path / "there", to, vocabulary=PIECES, say=said.append)
    asked = any("AutoTokenizer takes Siglip2Tokenizer here, which makes other numbers" in line for line in said)
    assert asked == (to == "huggingface_siglip2")  # it is byte pairs, and these are none
    peer = (PreTrainedTokenizerFast if asked else AutoTokenizer).from_pretrained(tmp_path / "there")
    ids = peer(TEXTS, padding="max_length", truncation=True)["input_ids"]
    assert ids == opened(text, PIECES).encode(TEXTS).tolist()
    convert(tmp_path / "there", tmp_path / "back.npz")
    assert read_model(tmp_path / "back.npz").card.text == text
    said.clear()
    convert(tmp_path / "a.npz", tmp_path / "bare", to, say=said.append)  # without the file
    assert any(
        "no files of a tokenizer are written. The vocabulary weights/c4_en.model is not there" in line for line in said
    )
    assert not (tmp_path / "bare" / "tokenizer_config.json").exists()
    with pytest.raises(UserError, match="has SHA-256"):
        convert(tmp_path / "a.npz", tmp_path / "wrong", to, vocabulary=WORDS)
    assert not (tmp_path / "wrong").exists()


def test_open_clip_takes_the_tokenizer_of_a_converted_model(tmp_path):
    """But for what it cleans before: entities of HTML, mojibake, runs of spaces."""
    open_clip = pytest.importorskip("open_clip")
    text = dataclasses.replace(SIGLIP, length=16, sha256=digest(PIECES))
    write_weights(tmp_path / "a.npz", initial_parameters(0, SMALL_SIGLIP), SMALL_SIGLIP, Card(text=text))
    convert(tmp_path / "a.npz", tmp_path / "there", "open_clip", vocabulary=PIECES)
    lines = ["a photo of a cat", "A Photo OF Cats.", "it'll do", "a very long text " * 9]
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'there'}")(lines)
    assert ids.tolist() == opened(text, PIECES).encode(lines).tolist()


def test_siglip2s_own_tokenizer_agrees(tmp_path):
    """With pieces as Gemma's are trained; capitals beyond A to Z apart, of which a note warns."""
    import sentencepiece as library
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    library.SentencePieceTrainer.train(
        sentence_iterator=iter([text.lower() for text in TEXTS] * 20), model_prefix=str(tmp_path / "a"), vocab_size=420, pad_id=0,
        eos_id=1, bos_id=2, unk_id=3, model_type="bpe", byte_fallback=True, add_dummy_prefix=False, minloglevel=2,
        remove_extra_whitespaces=False, normalization_rule_name="identity", hard_vocab_limit=False,
    )  # fmt: skip
    path, text = tmp_path / "a.model", dataclasses.replace(SIGLIP2, length=24)
    found = opened(text, path)
    files, (note,) = peers.peer_files(text, path, siglip2=True)
    assert "lowers all capitals, not only A to Z" in note
    for file, data in {**files, "config.json": b'{"model_type": "siglip2"}'}.items():
        (tmp_path / file).write_bytes(data)
    ours, peer = found.encode(TEXTS).tolist(), AutoTokenizer.from_pretrained(tmp_path)
    theirs = peer(TEXTS, padding="max_length", truncation=True)["input_ids"]
    assert type(peer).__name__ == "Siglip2Tokenizer"
    assert [row for row, text in zip(theirs, TEXTS) if text.lower() == sentencepiece.ascii_lower(text)] == [
        row for row, text in zip(ours, TEXTS) if text.lower() == sentencepiece.ascii_lower(text)
    ]
    assert theirs != ours
    peer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert peer(TEXTS, padding="max_length", truncation=True)["input_ids"] == ours


def test_facts_of_texts_that_no_file_tells_are_those_of_the_published_vocabulary(tmp_path):
    config = dataclasses.replace(SMALL_SIGLIP, text=dataclasses.replace(SMALL_SIGLIP.text, vocabulary=32_000))
    write_weights(tmp_path / "a.npz", initial_parameters(0, config), config)
    said = []
    convert(tmp_path / "a.npz", tmp_path / "b.safetensors", say=said.append)
    assert any("no file tells how texts become numbers, so they are taken as those of" in line for line in said)
    assert read_model(tmp_path / "b.safetensors").card.text == dataclasses.replace(SIGLIP, length=16)
    write_weights(tmp_path / "c.npz", initial_parameters(0, SMALL_SIGLIP), SMALL_SIGLIP)
    convert(tmp_path / "c.npz", tmp_path / "d.safetensors")
    assert read_model(tmp_path / "d.safetensors").card.text is None  # of 78 tokens, nothing is known


def test_peers_have_no_texts_as_pixels():
    with pytest.raises(UserError, match="no texts that are drawn as pixels; convert the image tower alone"):
        peers.peer_files(CLIPPO, LETTERS)


# --- what cannot go wrong


def every_tokenizer(merges: Path) -> list[Tokenizer]:
    return [
        opened(SIGLIP, PIECES),
        opened(dataclasses.replace(CLIP, length=9), merges),
        opened(dataclasses.replace(LIT, length=9), WORDS),
        opened(dataclasses.replace(BERT, length=9), WORDS),
    ]


def test_encoding_has_no_options():
    for kind in (Tokenizer, Renderer):
        assert [*inspect.signature(kind.encode).parameters] == ["self", "texts"]


def test_every_text_has_the_models_length_and_one_end(merges):
    for found in every_tokenizer(merges):
        ids = found.encode(TEXTS)
        assert ids.shape == (len(TEXTS), found.length) and ids.dtype == np.int32
        assert found.encode([]).shape == (0, found.length)
        assert (ids >= 0).all() and (ids < found.vocab_size).all()
        for text, row in zip(TEXTS, ids):
            assert (found.encode([text])[0] == row).all()  # alone or in company
        if found.text.end == "sticky":
            end = found.encode([""])[0, int(found.kind != "sentencepiece")]
            assert (ids == end).any(1).all() and ids[-2, -1] == end != ids[-2, -2]  # also of one that was cut
        if found.text.lower != "none":
            assert (found.encode(["A CAT"]) == found.encode(["a cat"])).all()


def test_many_texts_are_encoded_as_one_is(merges):
    """In threads, from a number of texts on."""
    lines = [" ".join(random.Random(i).choices(TEXTS[0].split() + TEXTS[1].split(), k=i % 13)) for i in range(600)]
    for found in every_tokenizer(merges):
        assert (found.encode(lines) == np.concatenate([found.encode([line]) for line in lines])).all()


def test_special_tokens_within_a_text_are_text_but_in_byte_pairs(merges):
    siglip, clip, _, bert = every_tokenizer(merges)
    assert 1 not in siglip.encode(["a </s> b"])[0, :5] and siglip.encode(["a </s> b"])[0, -1] == 1
    tokens_of_bert = wordpiece.read_tokens(WORDS)
    assert (bert.encode(["a [CLS] photo"])[0] == tokens_of_bert["[CLS]"]).sum() == 1
    assert (clip.encode(["a <|endoftext|> b"])[0] == clip.vocab_size - 1).sum() == 2


def test_extra_pieces_have_no_rows_of_embeddings(tmp_path):
    """T5's vocabularies end with pieces that no image-text model was trained with."""
    (tmp_path / "a").write_bytes(PIECES.read_bytes() + user_defined("▁<extra_id_1>") + user_defined("▁<extra_id_0>"))
    found = opened(SIGLIP, tmp_path / "a")
    assert found.vocab_size == 78
    ids = found.encode(["a <extra_id_0> dog", "a <dog"])
    assert (ids < 78).all() and ids[0, :3].tolist() == [4, 2, 28]  # a, unknown, dog
    import sentencepiece as library

    assert 79 in library.SentencePieceProcessor(model_file=str(tmp_path / "a")).encode("a <extra_id_0> dog")


def user_defined(piece: str) -> bytes:
    """A piece at the end of a sentencepiece model: its text, its score 0, its type 4."""
    text = piece.encode()
    message = b"\x0a" + bytes([len(text)]) + text + b"\x15\x00\x00\x00\x00" + b"\x18\x04"
    return b"\x0a" + bytes([len(message)]) + message


@pytest.mark.parametrize("texts", ("a photo", [1], ["a", None], [b"a"], ["a", "b\ud800"]))
def test_what_is_no_list_of_texts(texts):
    for found in (opened(SIGLIP, PIECES), opened(CLIPPO, LETTERS)):
        with pytest.raises(UserError, match="expected a list of strings|is no Unicode"):
            found.encode(texts)


def test_a_vocabulary_that_is_not_the_models():
    found = opened(SIGLIP, PIECES)
    found.check_model(78, 64)
    with pytest.raises(
        UserError, match="embeddings of 32,000 tokens at 64 places, and .* 64 of c4_en.model's 78 tokens"
    ):
        found.check_model(32000, 64)
    with pytest.raises(UserError, match="at 16 places"):
        found.check_model(78, 16)
    opened(CLIPPO, LETTERS).check_model(0, 224)
    with pytest.raises(UserError, match="images of 256 px"):
        opened(CLIPPO, LETTERS).check_model(0, 256)


# --- files


def test_a_missing_vocabulary_names_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr("common.data.text.vocabulary.INSTALLED", {})
    for text, command in (
        (SIGLIP2, f"`python -m common.download --dir {tmp_path} gemma.model`"),
        (CLIP, f"`python -m common.download --dir {tmp_path} bpe_simple_vocab_16e6.txt.gz`"),
        (LIT, f"`python -m common.download --dir {tmp_path} bert_uncased.txt`"),
        (SIGLIP, f"`curl -fo {tmp_path}/c4_en.model https://"),
        (CLIPPO, "`apt-get install unifont`"),
        (dataclasses.replace(SIGLIP, vocabulary="mine.model"), f"`cp FILE {tmp_path}/mine.model`"),
    ):
        with pytest.raises(UserError, match="is not there and the model's texts need it") as error:
            find_vocabulary(text, tmp_path)
        assert command in str(error.value)


def test_another_vocabulary_is_refused(tmp_path):
    (tmp_path / "c4_en.model").write_bytes(PIECES.read_bytes())
    with pytest.raises(UserError, match="has SHA-256 a48b2b.* was trained with 1e5036.*; move it away and run `curl"):
        open_tokenizer(SIGLIP, folder=tmp_path)
    with pytest.raises(UserError, match="has SHA-256 a48b2b"):
        open_tokenizer(SIGLIP, PIECES)
    with pytest.raises(UserError, match="is no file"):
        open_tokenizer(SIGLIP, tmp_path / "b.model")
    mine = dataclasses.replace(SIGLIP, sha256="a48b2b073f3dc167" + 48 * "0")
    with pytest.raises(UserError, match="has SHA-256 a48b2b"):
        open_tokenizer(mine, PIECES)
    found = open_tokenizer(dataclasses.replace(SIGLIP, sha256=None), folder=tmp_path)
    assert found.vocab_size == 78


DAMAGED = {
    "sentencepiece": (b"", b"nothing", PIECES.read_bytes()[:1000]),
    "bpe": (b"\x1f\x8b\x08damaged", b"a\nb c d\n", b"\xff\xfe", b"v\nzz zz\n"),
    "wordpiece": (b"", b"a\nb", b"[CLS]\na\na\n[UNK]", b"\xff[CLS]"),
    "unifont": (b"41:00", b"\xff", b"0041:zz", b"0041", b"FFFFFFF:00000000000000000000000000000000"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_vocabulary_is_one_sentence(kind, tmp_path):
    text = next(text for text in (SIGLIP, CLIP, BERT, CLIPPO) if text.kind == kind)
    for data in DAMAGED[kind]:
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(UserError, match="is no vocabulary of .*; fetch it again") as error:
            opened(text, tmp_path / "a")
        assert "\n" not in str(error.value)
        if kind in peers.WRITERS:
            with pytest.raises(UserError, match="fetch it again"):
                peers.peer_files(text, tmp_path / "a")


def test_a_card_that_does_not_fit_its_vocabulary(tmp_path):
    with pytest.raises(UserError, match="padding id is 78 and c4_en.model has 78 tokens"):
        opened(dataclasses.replace(SIGLIP, padding=78), PIECES)
    (tmp_path / "a").write_text("[PAD]\n[UNK]\n[CLS]\na")
    with pytest.raises(UserError, match="has no end token"):
        opened(BERT, tmp_path / "a")
    assert opened(LIT, tmp_path / "a").vocab_size == 4


SCRIPT = """
from common.data.text import open_tokenizer
from common.models.tokens import Text
from common.system.errors import exit_with_sentence
with exit_with_sentence():
    open_tokenizer(Text(sys.argv[1], "a", 8, 0, sys.argv[2], "unicode", "kept"), sys.argv[3])
"""


@pytest.mark.parametrize(
    ("package", "kind", "end", "path"),
    [("sentencepiece", "sentencepiece", "none", PIECES), ("tokenizers", "wordpiece", "none", WORDS),
     ("ftfy", "bpe", "sticky", WORDS)],
)  # fmt: skip
def test_a_missing_package_is_one_sentence(package, kind, end, path):
    done = run_without((package,), SCRIPT, kind, end, path)
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"error: {package} is not installed and these texts need it; `pip install '.[text]'`.\n"


# --- cards


def test_a_kind_of_tokenizer_is_complete():
    """Also the page on texts shows the facts of each published model."""
    kinds = {*get_args(tokens.TextKind)}
    assert kinds == {*tokens.HONOURED} == {*READERS, "unifont"} == {*peers.WRITERS, "unifont"}
    page = (ROOT / "docs" / "text.md").read_text()
    assert all(f"`{name}`" in page for name in PUBLISHED) and all(
        text.vocabulary in page for text in PUBLISHED.values()
    )
    assert {text.kind for text in PUBLISHED.values()} == kinds


PUBLISHED = {name: text for name, text in vars(tokens).items() if isinstance(text, Text)}


def test_published_vocabularies_have_rows_with_their_digests():
    rows = {row["name"]: row for row in read_manifest()["vocabularies"]}
    stated = {text.vocabulary: text.sha256 for text in PUBLISHED.values() if text.vocabulary in rows}
    assert stated == {name: row["sha256"] for name, row in rows.items()} and len(rows) == 3
    assert all(row["bytes"] > 0 and row["url"].startswith("https://") for row in rows.values())
    assert {SIGLIP_I18N.vocabulary, SIGLIP.vocabulary, CLIPPO.vocabulary} & {*rows} == set()
