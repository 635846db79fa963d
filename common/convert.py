"""Convert weights between spellings: `python -m common.convert SOURCE TARGET [--to ...]`.

Families and spellings are recognised from names and shapes (common/weights/spellings/). Nothing is executed, no framework is
imported, the target is read back before it takes its name, and a round trip returns the same bits.

    python -m common.convert ViT-B_16.npz vit_b_16/ --to timm
    python -m common.convert vit_b_16/ ViT-B_16.npz --to big_vision
    python -m common.convert --inspect ViT-B_16.npz
"""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import argparse
import dataclasses
import functools
import json
import re
import sys
from pathlib import Path
from typing import Any

from common.flags import Parser
from common.system.errors import UserError, exit_with_sentence
from common.system import files
from common.system.files import check_replaced, write_atomically, write_json
from common.data.text.peers import peer_files
from common.data.text.vocabulary import check_vocabulary, find_vocabulary
from common.weights import containers, huggingface_config, keras_hub_config, open_clip_config, timm_config
from common.weights.spellings import SPELLINGS
from common.weights.adapt import adapt, check_same_model
from common.weights.express import choose_table, differing, express, expressed
from common.weights.recognise import shorten
from common.weights.source import UNPREPARED, Source, card_path, find_weights, read_model, tower_of
from common.weights.table import Table
from common.models import (
    BertConfig, DecoderConfig, ModelConfig, ResNetConfig, TextConfig, TwoTowersConfig, ViTConfig, VqVaeConfig,
    architecture_name, family_name, num_parameters,
)  # fmt: skip
from common.models.families import dump_config
from common.models.published import DOWNLOADS, find_model, text_of

WRITERS = {  # spelling -> the contents of its files beside the arrays
    "timm": timm_config.write_config,
    "huggingface": huggingface_config.write_config,
    "huggingface_v5": huggingface_config.write_config,
    "huggingface_siglip2": functools.partial(huggingface_config.write_config, siglip2=True),
    "open_clip": open_clip_config.write_config,
    "keras_hub": keras_hub_config.write_config,
}
TOKENIZERS = {  # spelling -> the kinds of tokenizers that it has files for; open_clip has CLIP's own, without a file
    "huggingface": ("bpe", "wordpiece", "sentencepiece"),
    "huggingface_siglip2": ("bpe", "wordpiece", "sentencepiece"),
    "open_clip": ("wordpiece", "sentencepiece"),
}
FILES = {
    "open_clip": "open_clip_model.safetensors",
    "keras_hub": keras_hub_config.WEIGHTS,
}  # in a folder, where it is not model.safetensors
CONTAINERS = {  # spelling -> the kinds of files that its own tools read
    "big_transfer": (".npz",),
    "big_transfer_h5": (".h5", ".hdf5"),
    "timm": (".safetensors",),
    "facebook": (".safetensors",),
    "huggingface": (".safetensors",),
    "huggingface_v5": (".safetensors",),
    "huggingface_siglip2": (".safetensors",),
    "open_clip": (".safetensors",),
    "torchvision": (".safetensors",),
    "keras_hub": (".h5",),
    "ours": (".safetensors", *containers.SUFFIXES),
}
STATED = {  # facts that config.json can hold beyond what the spelling's own code computes
    ("timm", ViTConfig): ("gelu",),
    ("huggingface", ResNetConfig): ("num_groups",),
    ("keras_hub", ViTConfig): ("layer_norm_epsilon",),
    ("keras_hub", TwoTowersConfig): ("gelu", "layer_norm_epsilon"),
    ("open_clip", TwoTowersConfig): ("gelu", "layer_norm_epsilon"),  # or it is refused as it is written
    **{
        (spelling, family): ("gelu", "layer_norm_epsilon")
        for spelling in ("huggingface", "huggingface_v5", "huggingface_siglip2")
        for family in (ViTConfig, TextConfig, BertConfig, TwoTowersConfig)
    },
}
FLEXIBLE = ("ours", "big_vision", "big_vision_scan")  # spellings of FlexiViT
DECISIVE = ("gelu", "layer_norm_epsilon", "max_pool_padding", "num_groups")  # never changed without being asked
FIELDS = ("gelu", "layer_norm_epsilon", "num_heads", "image_size")


def main() -> None:
    """The command; a UserError ends with exit status 2."""
    with exit_with_sentence():
        args = parse(sys.argv[1:])
        given = {name: getattr(args, name) for name in FIELDS if getattr(args, name) is not None}
        if args.inspect:
            print(inspect(args.inspect, args.spelling, given))
        else:
            flags = {
                "spelling": args.spelling,
                "tower": args.tower,
                "given": given,
                "force": args.force,
                "patch_size": args.patch_size,
                "model": args.model,
                "vocabulary": args.vocabulary,
            }
            convert(args.source, args.target, args.to, **flags, say=print)


def parse(argv: list[str]) -> argparse.Namespace:
    """The flags. UserError for wrong ones."""
    parser = Parser(prog="python -m common.convert", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("source", nargs="?", help=f"a file ({containers.KNOWN}), a folder with one, or a TF checkpoint")
    parser.add_argument("target", nargs="?", help="a file, or a folder for timm, Hugging Face and open_clip")
    parser.add_argument("--to", choices=SPELLINGS, help="the target's spelling (default: by its name, or ours)")
    parser.add_argument("--from", choices=SPELLINGS, dest="spelling", help="the source's (default: recognised)")
    parser.add_argument("--tower", choices=("image", "text"), help="of an image-text model, the one tower to convert")
    parser.add_argument(
        "--patch_size", type=int, metavar="SIDE", help="resize a ViT's kernel and positions for such patches"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="the name of the model in the file, where that does not tell it, as of a FlexiViT or a DINOv2",
    )
    parser.add_argument("--force", action="store_true", help="replace a target that exists")
    parser.add_argument("--inspect", metavar="FILE", help="print what a file holds, and convert nothing")
    parser.add_argument(
        "--gelu", choices=("tanh", "erf", "quick"), help="the model's GELU, where it is unknown or to change it"
    )
    parser.add_argument("--layer_norm_epsilon", type=float, help="the model's epsilon, as --gelu")
    parser.add_argument("--vocabulary", metavar="FILE", help="of the model's texts (default: the card's, in weights/)")
    parser.add_argument("--num_heads", type=int, help="the model's number of heads, where it is unknown")
    parser.add_argument("--image_size", type=size, metavar="HEIGHTxWIDTH", help="of positions that form no square")
    args = parser.parse_args(argv)
    if not args.inspect and not (args.source and args.target):
        raise UserError("Nothing to do: give SOURCE and TARGET, or --inspect FILE; see --help.")
    if args.patch_size is not None and args.patch_size < 1:
        raise UserError(f"--patch_size is {args.patch_size}, expected at least 1; correct the flag.")
    if args.num_heads is not None and args.num_heads < 1:
        raise UserError(f"--num_heads is {args.num_heads}, expected at least 1; correct the flag.")
    if args.layer_norm_epsilon is not None and not 0 < args.layer_norm_epsilon < 1:
        raise UserError(f"--layer_norm_epsilon is {args.layer_norm_epsilon}, expected a small positive number.")
    return args


def size(text: str) -> tuple[int, int]:
    """(height, width) of `384x256` or `384`."""
    found = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 384 or 384x256")
    return int(found[1]), int(found[2] or found[1])


def convert(
    source: str | Path, target: str | Path, to: str | None = None, *, spelling: str | None = None,
    given: dict[str, Any] | None = None, vocabulary: str | Path | None = None, tower: str | None = None,
    patch_size: int | None = None, model: str | None = None, force: bool = False, say=lambda line: None,
) -> Path:  # fmt: skip
    """Write the model in `source` to `target` in the spelling `to`; returns the file of arrays.

    `spelling` and `given` are facts that the source lacks, `vocabulary` is the file of its texts; `tower`, `image` or `text`,
    is the part of an image-text model that is written; `model` is the name of a FlexiViT, or of another model of which a bare file does not tell how images are prepared, and `patch_size` the side
    in pixels of the patches that a ViT is written for; `force` replaces a target that exists. `say` is called with lines on what was found and done. Raises UserError, and leaves `target` as it was, where the spelling
    cannot hold the model.
    """
    path, to = choose_target(Path(target), to)
    check_replaced(path, force)
    found = read_model(source, spelling=spelling, given=given)
    say(f"{found.path}: {describe(found)}")
    if found.channels != 3:
        raise UserError(f"{found.path} takes images of {found.channels} channels, expected 3; convert it elsewhere.")
    found, on_texts = with_texts(found)
    found = tower_of(found, tower) if tower else found
    found = of_patches(found, patch_size, model, to)
    table = choose_table(to, found.config)
    config, notes = expressed(found.config, table)
    unused = [f"not written, since the model has no such parameters: {shorten(found.unused)}"] if found.unused else []
    beside, more = WRITERS[to](config, found.card) if to in WRITERS else ({}, [])
    texts, on_tokens = tokenizer_files(found, to, vocabulary)
    for line in unused + found.notes + notes + check_computed(found.config, table, path) + more + on_texts + on_tokens:
        say(f"Note: {line}.")
    record = found.card.facts() | {"config": dump_config(found.config)}
    another = next((name for name in beside if (path.parent / name).exists()), None)
    if another and not target_is_own(path):
        raise UserError(f"{path.parent} holds a {another} of another model; choose another folder.")
    published = table.to_published(express(found.arrays, found.config, config), config)
    found.arrays.clear()
    metadata = {"format": "pt", containers.RECORD: json.dumps(record)}
    containers.write(path, published, metadata, config if to == "big_transfer_h5" else None)
    for name, facts in beside.items():
        write_json(path.parent / name, facts)
    for name, data in texts.items():
        write_atomically(path.parent / name, lambda file, data=data: file.write(data))
    if not beside and has_card(path, to):
        write_json(card_path(path), record)
    say(f"{path}: {to}, {path.stat().st_size:,} bytes, read back and equal.")
    return path


def of_patches(found: Source, patch_size: int | None, model: str | None, to: str) -> Source:
    """The model for patches of one size, where one is given; its notes say what was resized. UserError where it needs one."""
    if model:
        row = find_model(model)
        check_same_model(found.config.like(row.config()), row.config(), found.path)
        notes = [note for note in found.notes if row.usual.mean is None or UNPREPARED not in note]
        config, card = found.config.as_published(row.config()), found.card.over(row.usual)
        found = found._replace(config=config, card=card, notes=notes)
    config, notes = found.config.with_side(patch_size), [*found.notes]
    if patch_size:
        config = config.fixed()
    elif config.fixed() != config and to not in FLEXIBLE:
        raise UserError(
            f"{to} holds ViTs with patches of one size; give it with --patch_size, or choose {' or '.join(FLEXIBLE)}."
        )
    arrays = found.arrays if config == found.config else adapt(found.arrays, found.config, config, notes.append)
    return found._replace(config=config, arrays=arrays, notes=[note.removesuffix(".") for note in notes])


def with_texts(found: Source) -> tuple[Source, list[str]]:
    """(the model with the facts of published texts, a note) where no file tells how its texts become numbers."""
    text = found.card.text or text_of(found.config)
    if text == found.card.text:
        return found, []
    note = f"no file tells how texts become numbers, so they are taken as those of the models with {text.vocabulary}"
    return found._replace(card=dataclasses.replace(found.card, text=text)), [note]


def tokenizer_files(found: Source, to: str, vocabulary: str | Path | None) -> tuple[dict[str, bytes], list[str]]:
    """({name: contents} that make a peer's tokenizer agree, notes). UserError for a `vocabulary` that does not fit."""
    text = found.card.text
    if text is None or text.kind not in TOKENIZERS.get(to, ()):
        return {}, []
    try:
        path = check_vocabulary(text, Path(vocabulary)) if vocabulary else find_vocabulary(text, DOWNLOADS)
    except UserError as error:
        if vocabulary:
            raise
        return {}, [f"no files of a tokenizer are written. {str(error).removesuffix('.')}"]
    return peer_files(text, path, siglip2=to == "huggingface_siglip2")


def has_card(path: Path, spelling: str) -> bool:
    """Whether the record of a model stands in a card beside its file, which has no place for it."""
    return path.suffix == ".npz" or spelling == "big_transfer_h5"


def choose_target(target: Path, to: str | None) -> tuple[Path, str]:
    """(file of arrays, spelling). UserError where they do not go together."""
    to = to or "ours"
    if to == "big_transfer" and target.suffix in (".h5", ".hdf5"):
        to = "big_transfer_h5"
    kinds = CONTAINERS.get(to, (".npz",))
    is_folder = to in WRITERS and (target.is_dir() or target.suffix not in containers.FILES)
    target = target / FILES.get(to, "model.safetensors") if is_folder else target
    if target.suffix not in kinds:
        a_folder = " or a folder" if to in WRITERS else ""
        raise UserError(
            f"{to} is kept in {' or '.join(kinds)} files{a_folder}, and {target} is none; choose such a name."
        )
    return target, to


def target_is_own(path: Path) -> bool:
    """Whether the config.json beside a target is that of the file which is replaced."""
    return path.exists()


def check_computed(config: ModelConfig, table: Table, path: Path) -> list[str]:
    """The differences between the spelling's own code and the model; UserError where one is decisive."""
    notes, stated = [], STATED.get((table.spelling, table.family), ())
    for name, (ours, theirs) in differing(config, table).items():
        field = name.split()[-1]  # of a child, too: `image gelu`
        if field in stated:
            continue
        where = (
            f"{card_path(path).name} states it"
            if has_card(path, table.spelling)
            else "the record in the file states it"
        )
        if field in DECISIVE and table.spelling in WRITERS:
            raise UserError(
                f"{table.spelling} computes with the {name} {theirs}, its config.json cannot say otherwise, and the "
                f"model has {ours}; give --{field} {theirs} to change the model."
            )
        notes.append(f"{table.spelling}'s own code computes with the {name} {theirs}, the model has {ours}; {where}")
    if table.spelling == "timm" and not timm_config.describe(config)[0]:
        notes.append("timm has no architecture of this size, so config.json names none")
    return notes


# --- what a person reads


def describe(found: Source) -> str:
    """One line on a model that was read."""
    config = found.config
    name = architecture_name(config)
    parts = [f"{family_name(config)}{f' {name}' if name else ''} in the spelling {found.spelling}"]
    parts += [f"{config.num_classes:,} classes" if config.num_classes else "no head"]
    if config.image_size:
        parts.append(" x ".join(map(str, config.image_size)) + " pixels")
    parts.append(f"{num_parameters(config):,} parameters")
    assumed = [f"{field} {functools.reduce(getattr, field.split(), config)}" for field in found.assumed]
    return ", ".join(parts) + (f" (no file states: {', '.join(assumed)} as in {found.spelling})" if assumed else "")


def own_fields(config: ModelConfig) -> str:
    """The fields of a configuration without the models within it, in words."""
    fields = (item.name for item in dataclasses.fields(config) if item.name not in config.children)
    return ", ".join(f"{name} {getattr(config, name)}" for name in fields)


def inspect(path: str | Path, spelling: str | None = None, given: dict[str, Any] | None = None) -> str:
    """The lines that `--inspect` prints."""
    found = read_model(path, spelling=spelling, given=given, values=False)
    config, text = found.config, found.card.text or text_of(found.config)
    rows = {
        "file": f"{found.path}, {found.path.stat().st_size:,} bytes",
        "family": family_name(config),
        "architecture": architecture_name(config) or "none that is published",
        "spelling": found.spelling,
        "classes": f"{config.num_classes:,}" if config.num_classes else "none",
        "resolution": " x ".join(map(str, config.image_size or ())) or ("any" if config.image_kernel else "no images"),
        "parameters": f"{num_parameters(config):,}",
        "configuration": own_fields(config),
        **{name: f"{family_name(child)}: {own_fields(child)}" for name, child in config.children.items()},
        **({"texts": ", ".join(f"{name} {fact}" for name, fact in text.facts().items())} if text else {}),
        "assumed": ", ".join(found.assumed) or "nothing",
        "not read": shorten(found.unused) if found.unused else "nothing",
        "serves for": uses(config),
        "converts to": ", ".join(targets(config)) or "no other spelling",
        "SHA-256": digest(found.path),
    }
    return "\n".join(f"{name:<14} {value}" for name, value in rows.items())


def uses(config: ModelConfig) -> str:
    """What the commands can do with a model, in words."""
    if isinstance(config, TwoTowersConfig):
        return "evaluate and predict by texts, train, and its towers alone"
    if isinstance(config, DecoderConfig):
        return "evaluate and predict texts, or codes with --oracle; train"
    if isinstance(config, VqVaeConfig):
        return "evaluate, train, and as --oracle of a model that writes codes"
    if config.image_kernel is None:
        return "the tower of an image-text model"
    if config.num_classes:
        return "predict, evaluate, export; train, also with other classes"
    return "train with a new head, features, and probes of them (common.probe)"


def targets(config: ModelConfig) -> list[str]:
    """The spellings that hold a model, without those whose code computes something decisive otherwise."""
    held = []
    for spelling in SPELLINGS:
        try:
            table = choose_table(spelling, config)
            check_computed(expressed(config, table)[0], table, Path("model.safetensors"))
        except UserError:
            continue
        held.append(spelling)
    return held


def digest(path: str | Path) -> str:
    """SHA-256 of a file."""
    return files.digest(find_weights(path))


if __name__ == "__main__":
    main()
