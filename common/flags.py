"""Flags of commands: a field of a frozen dataclass declares one, with its type, default, range, choices, scope and help.

The command line, `--help`, the checks and every list of flags follow from these declarations.
"""

import argparse
import dataclasses
import functools
import math
import numbers
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from common.system.errors import UserError, nearest

Scope = Literal["recipe", "run", "machine"]  # what a run computes; what it writes and how it fits; where things are
TINY = 1e-30  # what is smaller and not zero would become zero in float32
MOST_SEED = 2**63 - 1


def flag(default: Any, help: str, *, scope: Scope = "recipe", **options: Any) -> Any:
    """A field of a config, which is a flag.

    A flag of the scope `recipe` stays the same from a run's first step to its last, and between runs that are compared;
    of `run`, it may change; of `machine`, it may also differ between the processes of one run. The `options`:

        rule                what an absent value means, in words, where the default is None
        least, most, below  the range of a number: [least, most], and less than `below`
        choices             the values of a string that a table lists; other strings that choose are a Literal
        check               a function of the value that raises UserError
        excludes            (another flag, what both of them say): at most one of them is given
        aliases             further names on the command line
        positional          in words; arguments without a flag's name, one at least
        repeats             True: it may be given several times; commas join the values
        replaces            True: its value takes the place of the recipe's own
        recipes, tasks      those that have a use for it; others refuse it
    """
    return field(default=default, metadata={"help": help, "scope": scope, **options})


def scoped(config_class: type, *scopes: Scope) -> frozenset[str]:
    """The flags of these scopes."""
    return frozenset(f.name for f in dataclasses.fields(config_class) if f.metadata["scope"] in scopes)


def options(config_class: type, name: str) -> Mapping[str, Any]:
    """What `flag` was given for the flag `name`."""
    return config_class.__dataclass_fields__[name].metadata


def replacing(config_class: type) -> frozenset[str]:
    """The flags that take the place of a recipe's own numbers."""
    return frozenset(f.name for f in dataclasses.fields(config_class) if "replaces" in f.metadata)


def given(config: Any) -> dict[str, Any]:
    """{flag: value} of the flags that differ from their defaults."""
    values = {f.name: (getattr(config, f.name), f.default) for f in dataclasses.fields(config)}
    return {name: value for name, (value, default) in values.items() if value != default}


def arguments(config: Any) -> list[str]:
    """The flags of a config that differ from their defaults, as on a command line."""
    words = [[f"--{name}"] + ([] if value is True else [str(value)]) for name, value in given(config).items()]
    return [word for flag in words for word in flag]


def changes(before: dict[str, Any], config: Any) -> list[tuple[str, Any, Any]]:
    """(flag, value before, value now) of the flags that may not change when a run goes on, and do."""
    fixed = [f for f in dataclasses.fields(config) if f.metadata["scope"] == "recipe"]
    values = [(f.name, before.get(f.name, f.default), getattr(config, f.name)) for f in fixed]
    return [(name, old, new) for name, old, new in values if old != new]


# --- the command line


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one sentence, with the nearest flag, and exit status 2.

    Its help begins with words, and `~` means the user's folder wherever it begins a path, which shells leave alone
    in `--logdir=~/runs`.
    """

    def error(self, message: str):
        """Raise UserError with what argparse says."""
        raise UserError(f"{message[:1].upper()}{message[1:]}; see --help.")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """What argparse makes of the words, once `~` is spelt out."""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([with_home(word) for word in words], namespace)

    def format_help(self) -> str:
        """The description first."""
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_text(group.description)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()


class Joined(argparse.Action):
    """What a flag that is given several times becomes: its values with commas between."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: str, option_string: str | None = None):
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, values if before is None else f"{before},{values}")


def with_home(word: str) -> str:
    """A word of a command line with the user's folder in place of `~`."""
    flag, value = re.fullmatch(r"(--\w+=)?(.*)", word, re.DOTALL).groups("")
    return flag + (os.path.expanduser(value) if value.startswith("~") else value)


def read(config_class: type, argv: Sequence[str], prog: str, description: str) -> dict[str, Any]:
    """{flag: value} of the command line. Raises UserError for an unknown flag or a value of another type."""
    places = [f.metadata["positional"] for f in dataclasses.fields(config_class) if "positional" in f.metadata]
    usage = " ".join((prog, *(f"{place} ..." for place in places), "[--FLAG VALUE ...]"))
    parser = Parser(prog=prog, description=description, usage=usage, allow_abbrev=False)
    add_arguments(parser, config_class)
    values, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [f"--{item.name}" for item in dataclasses.fields(config_class)]
        raise UserError(f"{prog} knows no {unknown[0]!r}{nearest(unknown[0], flags)} --help lists the flags.")
    return vars(values)


def add_arguments(parser: argparse.ArgumentParser, config_class: type) -> None:
    """The flags of a config, its own and then a group for each class it is made of; only what is given gets a value."""
    own, *parts = config_class.__mro__[:-1]
    groups = {cls: parser.add_argument_group(cls.__doc__.partition(".")[0]) for cls in (own, *reversed(parts))}
    for item in dataclasses.fields(config_class):
        home = next(cls for cls in config_class.__mro__ if item.name in vars(cls).get("__annotations__", ()))
        add_argument(groups[home], item, config_class)


USERS = {"recipes": "with --recipe", "tasks": "for"}  # in the help of a flag that others refuse


def add_argument(group: Any, item: dataclasses.Field, config_class: type) -> None:
    """One flag of the parser, from one field of a config."""
    kind, text = plain_type(config_class, item.name), item.metadata["help"]
    names = (f"--{item.name}", *item.metadata.get("aliases", ()))
    if place := item.metadata.get("positional"):
        group.add_argument(item.name, nargs="+", metavar=place, help=text)
    elif kind is bool:
        group.add_argument(*names, action="store_true", default=argparse.SUPPRESS, help=f"{text} (default: off)")
    elif get_origin(kind) is tuple:
        text = f"{text} (default: {item.metadata['rule']})"
        group.add_argument(*names, dest=item.name, nargs="+", metavar="TEXT", default=argparse.SUPPRESS, help=text)
    else:
        default = item.metadata.get("rule", item.default)
        text = text if default is None else f"{text} (default: {default})"
        users = [f", {words} {' or '.join(item.metadata[of])}" for of, words in USERS.items() if of in item.metadata]
        text += "".join(users)
        allowed = choices(config_class).get(item.name)
        action = Joined if "repeats" in item.metadata else "store"
        group.add_argument(
            *names, dest=item.name, action=action, type=kind, default=argparse.SUPPRESS, choices=allowed,
            metavar=None if allowed else kind.__name__.upper(), help=text.replace("%", "%%"),
        )  # fmt: skip


# --- types, ranges and choices


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """{field: its type, or T of `T | None`} of a dataclass."""
    return {name: without_none(hint) for name, hint in get_type_hints(cls).items()}


def without_none(hint: Any) -> Any:
    """T of `T | None`, and any other type as it is."""
    parts = get_args(hint)
    return next(part for part in parts if part is not type(None)) if type(None) in parts else hint


def plain_type(cls: type, name: str) -> type:
    """What a word of the command line becomes."""
    hint = hints(cls)[name]
    return str if get_origin(hint) is Literal else hint


@functools.cache
def choices(cls: type) -> dict[str, tuple[str, ...]]:
    """{field: its values} of the strings of a dataclass that choose: each is a Literal, or its flag has `choices`."""
    literal = {name: get_args(hint) for name, hint in hints(cls).items() if get_origin(hint) is Literal}
    listed = {f.name: tuple(f.metadata["choices"]) for f in dataclasses.fields(cls) if "choices" in f.metadata}
    return literal | listed


def check_choices(instance: Any, called: str) -> None:
    """Raise UserError for a string that is none of its choices; `called` makes a sentence's words of a field: `--{}`."""
    defaults = {f.name: f.default for f in dataclasses.fields(instance)}
    for name, allowed in choices(type(instance)).items():
        value = getattr(instance, name)
        if value not in allowed and not (value is None and defaults[name] is None):
            raise UserError(f"{called.format(name)} is {value!r}, expected {' or '.join(allowed)}.")


def check(config: Any) -> None:
    """Raise UserError for a flag with a value that it cannot have, and for two that say the same."""
    check_types(config)
    check_choices(config, "--{}")
    for item in dataclasses.fields(config):
        value, options = getattr(config, item.name), item.metadata
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            check_range(f"--{item.name}", value, **{k: v for k, v in options.items() if k in RANGE})
        if "check" in options and value is not None:
            options["check"](value)
        if "excludes" in options and value is not None:
            other, what = options["excludes"]
            if (theirs := getattr(config, other)) is not None:
                raise UserError(f"--{other} {theirs:g} and --{item.name} {value:g} both say {what}; give one of them.")


TYPES = {  # of a flag -> of its values, in Python and in the files of a run
    bool: (bool, "true or false"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: ((str, os.PathLike), "words"),
}


def check_types(config: Any) -> None:
    """Raise UserError for a flag with a value of another type than the command line gives it."""
    for item in dataclasses.fields(config):
        value, kind = getattr(config, item.name), plain_type(type(config), item.name)
        if value is None and item.default is None or kind not in TYPES or "check" in item.metadata:
            continue
        allowed, expected = TYPES[kind]
        if not isinstance(value, allowed) or isinstance(value, bool) and kind is not bool:
            raise UserError(f"--{item.name} is {value!r}, expected {expected}; correct the flag.")


RANGE = ("least", "most", "below")


def check_range(name: str, value: float, least: float = 0, most: float = math.inf, below: float = math.inf) -> None:
    """Raise UserError for a number that is not in [least, most] or not below `below`, or that float32 takes for 0."""
    expected = None
    if not value >= least:  # nan, too
        expected = f"at least {least:g}"
    elif value > most:
        expected = f"at most {most:,}" if most > 1e6 else f"at most {most:g}"
    elif value >= below:
        expected = f"less than {below:g}" if below < math.inf else "a finite number"
    elif 0 < value < TINY:
        expected = f"{'0 or ' if least == 0 else ''}at least {TINY:g}, since float32 knows no smaller number"
    if expected:
        raise UserError(f"{name} is {value}, expected {expected}; correct the flag.")
