"""Random JSON schemas whose every document is short: strings, lists and depths are bounded."""

from __future__ import annotations

from random import Random
from typing import Any

Schema = dict[str, Any]
_KEYS = ("name", "größe", "a b", 'quo"te', "x", "id", "日付", "back\\slash")


def random_schema(seed: int) -> Schema:
    random = Random(seed)
    return _object(random, depth=0) if random.random() < 0.8 else _any(random, depth=0)


def _any(random: Random, depth: int) -> Schema:
    leaves = [_string, _integer, _number, _choice, _pattern, _format, _simple]
    nested = [_object, _array, _any_of] if depth < 3 else []
    return random.choice(leaves + nested)(random, depth)


def _object(random: Random, depth: int) -> Schema:
    keys = random.sample(_KEYS, random.randint(1, 4))
    return {
        "type": "object",
        "properties": {key: _any(random, depth + 1) for key in keys},
        "required": random.sample(keys, random.randint(0, len(keys))),
        "additionalProperties": False,
    }


def _array(random: Random, depth: int) -> Schema:
    least = random.randint(0, 2)
    return {
        "type": "array",
        "items": _any(random, depth + 1),
        "minItems": least,
        "maxItems": least + random.randint(0, 3),
    }


def _any_of(random: Random, depth: int) -> Schema:
    return {"anyOf": [_any(random, depth + 1) for _ in range(random.randint(1, 3))]}


def _string(random: Random, depth: int) -> Schema:
    least = random.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + random.randint(0, 9)}


def _integer(random: Random, depth: int) -> Schema:
    least = random.randint(-1000, 1000)
    return {"type": "integer", "minimum": least, "maximum": least + random.randint(0, 10**6)}


def _number(random: Random, depth: int) -> Schema:
    return {"type": "number", "minimum": -1.5, "exclusiveMaximum": random.choice([0, 2.25, 100])}


def _choice(random: Random, depth: int) -> Schema:
    values = [None, True, -3, 2.5, "é", 'a"b', [1, "x"], {"k": {}}]
    chosen = random.sample(values, random.randint(1, 4))
    return {"const": chosen[0]} if random.random() < 0.3 else {"enum": chosen}


def _pattern(random: Random, depth: int) -> Schema:
    return {
        "type": "string",
        "pattern": random.choice(["^[a-z]{2,5}$", r"^\d{3}-\d{4}$", "^(a|é)?$"]),
    }


def _format(random: Random, depth: int) -> Schema:
    return {"type": "string", "format": random.choice(["date", "uuid", "ipv4"])}


def _simple(random: Random, depth: int) -> Schema:
    return {"type": random.choice(["boolean", "null", ["boolean", "null"]])}
