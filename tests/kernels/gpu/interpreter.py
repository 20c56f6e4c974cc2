"""Triton's interpreter under numpy 2.4, which makes no int of an array of one element; with
comparisons that give truth values, not numbers of what they compare, which from 3.9 on are no mask;
and with the language's functions replaced once, not at every call: that was half of a small
kernel's time.

Imported by the scripts that run in a process with ``TRITON_INTERPRET=1``.
"""

from collections.abc import Callable
from typing import Any

from triton.runtime import interpreter

_patch_lang = interpreter._patch_lang
_patch_lang_tensor = interpreter._patch_lang_tensor
_patched: set[frozenset[str]] = set()
_check = interpreter.TensorHandle.__post_init__


def _patch(tensor: Any, scope: Any) -> None:
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


def _check_type(handle: Any) -> None:
    if handle.data.dtype == bool:
        handle.dtype = interpreter.tl.int1
    _check(handle)


def _patch_once(fn: Callable[..., Any]) -> Any:
    """By the names under which a module knows the language. There is nothing to restore."""
    languages = (interpreter.tl, interpreter.tl.core)
    names = (name for name, value in fn.__globals__.items() if any(value is x for x in languages))
    if (key := frozenset(names)) not in _patched:
        _patched.add(key)
        _patch_lang(fn)
    return interpreter._LangPatchScope()


interpreter._patch_lang_tensor = _patch
interpreter._patch_lang = _patch_once
interpreter.TensorHandle.__post_init__ = _check_type
