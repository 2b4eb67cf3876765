"""Reading the options of a program, with the checks that hold for all of them."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from golf.system.fields import short_help
from golf.system.files import require_output
from golf.system.stored import ConfigError

MAX_WHOLE = 2**53
"""Largest whole number of an option."""
OUTPUTS = ("json", "png", "plot", "per_document")
"""Options that name a file to write at the end."""

Options = TypeVar("Options")
NUMBERS = ConstructorRegistry()
"""tyro's rules with one more: what is no number is said in words."""


@NUMBERS.primitive_rule
def number_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """How tyro reads int and float, and None where the option takes that too."""
    is_union = get_origin(info.type) in (Union, UnionType)
    kinds = set(get_args(info.type)) if is_union else {info.type}
    takes_none = NoneType in kinds
    kinds -= {NoneType}
    if kinds not in ({int}, {float}):
        return None
    kind = kinds.pop()

    def read(texts: list[str]) -> int | float | None:
        if takes_none and texts[0] == "None":
            return None
        try:
            return kind(texts[0])
        except ValueError as error:
            expected = "a whole number" if kind is int else "a number"
            raise ValueError(f"{texts[0]!r} is not {expected}") from error

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=read,
        is_instance=lambda value: type(value) in (kind, int) or (takes_none and value is None),
        str_from_instance=lambda value: [str(value)],
    )


def read_options(
    kind: type[Options],
    arguments: list[str],
    program: str,
    doc: str | None,
    default: Options | None = None,
    least: Mapping[str, float] | None = None,
) -> Options:
    """The options of class `kind` in a command line, over `default` where one is given.

    `--help` prints one screen and `--help-all` every field, and both end with SystemExit, code 0. SystemExit
    with code 2, after tyro's message, for options that cannot be read; ConfigError as `check_numbers`, which
    takes `least`; ValueError for one of OUTPUTS that cannot be written.
    """
    how: dict[str, Any] = {} if default is None else {"default": default}
    if "--help-all" in arguments:
        arguments = ["--help"]
    elif {"-h", "--help"} & set(arguments):
        print(short_help(kind, program, doc, default))
        raise SystemExit(0)
    options = tyro.cli(kind, args=arguments, prog=program, description=doc, registry=NUMBERS, **how)
    check_numbers(options, least or {}, option_flag)
    for name, value in named_values(options):
        if name in OUTPUTS and isinstance(value, Path):
            require_output(value, option_flag(name))
    return options


def option_flag(name: str) -> str:
    """The option of a field as it is typed."""
    return f"--{name.replace('_', '-')}"


def check_numbers(options: Any, least: Mapping[str, float], spell: Callable[[str], str] = str) -> None:
    """ConfigError for a number that is not finite, or below 0, or below what `least` says of its option.

    Names of nested ones are dotted, train.batch_tokens; `spell` says how the message writes one.
    """
    for name, value in named_values(options):
        lowest = least.get(name, 0)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            highest = MAX_WHOLE if isinstance(number, int) else math.inf
            if not math.isfinite(number) or not lowest <= number <= highest:
                # A bound below the smallest that matters stands for "more than 0".
                expected = f"at least {lowest:g}" if lowest == int(lowest) else "more than 0"
                raise ConfigError(f"{spell(name)} is {number}; expected a finite number, {expected}")


def named_values(options: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a dataclass and of those in it, by their names on the command line."""
    for field in dataclasses.fields(options):
        value = vars(options)[field.name]
        if dataclasses.is_dataclass(value):
            # Annotated[Part, tyro.conf.arg(name="")]: its options stand without a prefix.
            is_open = any(
                dataclasses.is_dataclass(mark) and vars(mark).get("name") == ""
                for mark in get_args(field.type)[1:]
            )
            yield from named_values(value, prefix if is_open else f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value
