"""Every field of a config dataclass as a flag, an environment variable and a YAML key.

``max_num_seqs`` is ``--max-num-seqs``, ``QOQ_MAX_NUM_SEQS`` and ``max_num_seqs:``. A field whose
name ends in ``_bytes`` takes sizes like ``512MiB``.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import re
import types
import typing
from typing import Any

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True} | {
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


class ConfigError(ValueError):
    """A setting that cannot be; the message is one sentence that names it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One field. ``kind`` is its type without ``| None``; ``help`` comes from its metadata."""

    name: str
    kind: Any
    default: Any
    flag_name: str
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.flag_name.replace("_", "-")

    @property
    def variable(self) -> str:
        return f"QOQ_{self.flag_name.upper()}"

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """The flag is absent from the namespace where it is not given, and unparsed where it is."""
        settings: dict[str, Any] = {"dest": self.name, "default": argparse.SUPPRESS}
        if self.kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings["metavar"] = self.flag_name.upper()
            settings["action"] = "append" if self._is_list else "store"
        default = "" if self.default is None or self._is_list else f" [{self.default}]"
        parser.add_argument(self.flag, help=f"{self.help}{default}".strip() or None, **settings)

    def parse(self, value: object, source: str) -> Any:
        """Raises ConfigError; ``source`` says where the value was found."""
        if value is None:
            return self.default
        if self._is_list:
            parts = value.split(",") if isinstance(value, str) else value
            if not isinstance(parts, list):
                raise ConfigError(f"{source}: {value!r} is not a list.")
            return tuple(str(part).strip() for part in parts)
        try:
            return self._parse_one(value)
        except ValueError as error:
            raise ConfigError(f"{source}: {value!r} is not {error}.") from None

    def _parse_one(self, value: object) -> Any:
        if self.name.endswith("_bytes"):
            return parse_size(str(value))
        if self.kind is bool:
            return _parse_bool(value)
        if isinstance(value, bool | dict | list):
            raise ValueError("a single value")
        try:
            return self.kind(str(value)) if self.kind is not float else float(str(value))
        except ValueError:
            raise ValueError(self._kind_name) from None

    @property
    def _kind_name(self) -> str:
        if issubclass(self.kind, enum.Enum):
            return " or ".join(str(member.value) for member in self.kind)
        return {int: "an integer", float: "a number"}[self.kind]

    @property
    def _is_list(self) -> bool:
        return typing.get_origin(self.kind) is tuple


def options_of(config_class: type, skip: frozenset[str] = frozenset()) -> list[Option]:
    kinds = typing.get_type_hints(config_class)
    return [
        Option(
            name=field.name,
            kind=_without_none(kinds[field.name]),
            default=_default(field),
            flag_name=field.metadata.get("flag", field.name),
            help=field.metadata.get("help", ""),
        )
        for field in dataclasses.fields(config_class)
        if field.name not in skip
    ]


def parse_size(text: str) -> int:
    """In bytes: ``512MiB`` and ``512M`` are 512 x 1024^2, ``512MB`` is 512 x 1000^2."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("a size like 512MiB, 2GB or a number of bytes")
    number, unit = float(match[1]), (match[2] or "").upper()
    is_decimal = len(unit) == 1 and text.strip().upper().endswith("B")
    return int(number * (1000 if is_decimal else 1024) ** _POWERS.get(unit[:1], 0))


def _parse_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() not in _BOOLEANS:
        raise ValueError("true or false")
    return _BOOLEANS[str(value).lower()]


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) not in (types.UnionType, typing.Union):
        return kind
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    assert len(members) == 1, f"a setting has one type, not {kind}"
    return members[0]


def _default(field: dataclasses.Field[Any]) -> Any:
    return None if field.default is dataclasses.MISSING else field.default
