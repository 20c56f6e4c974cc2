"""Triton's interpreter under numpy 2.4, which no longer makes an int of an array of one element.

Imported by the scripts that run in a process with ``TRITON_INTERPRET=1``.
"""

from typing import Any

from triton.runtime import interpreter

_patch_lang_tensor = interpreter._patch_lang_tensor


def _patch(tensor: Any, scope: Any) -> None:
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


interpreter._patch_lang_tensor = _patch
