"""What the text of a chat model is made of. Parts of a kind that follow each other are one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool is called; what it is given follows as CallArguments, JSON text in pieces."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    text: str


Part = Content | Reasoning | CallStart | CallArguments
