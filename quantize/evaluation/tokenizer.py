"""Text to tokens for evaluation, by transformers: the published protocols are made of its ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.evaluation.passage import Passage


class EvaluationTokenizer:
    """Raises ModelSourceError where the folder has no tokenizer that can be read."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer  # takes seconds to import

        self._folder = folder
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelSourceError(f"{folder}: the tokenizer cannot be read ({reason})") from None

    def encode(self, text: str) -> list[int]:
        """With the special tokens that the model puts around every text."""
        ids: list[int] = self._tokenizer(text, verbose=False)["input_ids"]
        return ids

    def encode_pair(self, context: str, continuation: str) -> Passage:
        """Both as one text. Predicted is what follows the tokens that the context alone has too;
        one that joins the two belongs to the continuation.
        """
        alone, whole = self.encode(context), self.encode(context + continuation)
        pairs = zip(alone, whole, strict=False)
        common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(alone), len(whole)))
        return Passage(whole, max(common, 1))

    def encode_chat(self, message: str) -> list[int]:
        """A user's message, up to where the assistant answers."""
        if self._tokenizer.chat_template is None:
            raise ModelSourceError(
                f"{self._folder} has no chat template; leave the task `refusals` out"
            )
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], add_generation_prompt=True, tokenize=False
        )
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text
