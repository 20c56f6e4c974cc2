"""Triton's interpreter, which replaces the language's functions once and not at every call.

Half of the time of a small kernel was that. Imported by files that run with ``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from triton.runtime import interpreter

from ...kernels.gpu import interpreter as numpy_2_4  # noqa: F401

_patch_lang = interpreter._patch_lang
_patched: set[frozenset[str]] = set()


def _patch_once(fn: Callable[..., Any]) -> Any:
    """By the names under which a module knows the language. There is nothing to restore."""
    languages = (interpreter.tl, interpreter.tl.core)
    names = (name for name, value in fn.__globals__.items() if any(value is x for x in languages))
    if (key := frozenset(names)) not in _patched:
        _patched.add(key)
        _patch_lang(fn)
    return interpreter._LangPatchScope()


interpreter._patch_lang = _patch_once
