"""What the loaded model and the engine can take, and the complaint where more is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from qoq.engine.protocol import EngineInfo
from qoq.server.errors import ApiError

_CHOICES_PER_SEQ = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every check raises ApiError (400) naming ``param``, the field that is to blame.

    ``max_num_seqs`` sequences run at once, so it bounds ``n``; a list of prompts may queue.
    """

    max_model_len: int
    vocab_size: int
    max_num_seqs: int

    @classmethod
    def of(cls, info: EngineInfo, max_num_seqs: int) -> Limits:
        return cls(
            max_model_len=info.max_model_len, vocab_size=info.vocab_size, max_num_seqs=max_num_seqs
        )

    def check_num_choices(self, n: int, num_prompts: int, param: str = "prompt") -> None:
        if n > self.max_num_seqs:
            raise ApiError(
                f"Invalid 'n': this server runs {self.max_num_seqs} sequences at once, got {n}.",
                param="n",
                code="integer_above_max_value",
            )
        asked, allowed = n * num_prompts, _CHOICES_PER_SEQ * self.max_num_seqs
        if asked > allowed:
            raise ApiError(
                f"Invalid '{param}': {num_prompts} prompts x n = {n} is {asked} choices, more than "
                f"the {allowed} that one request may ask for.",
                param=param,
                code="array_above_max_length",
            )

    def check_prompt(self, token_ids: list[int], param: str) -> None:
        if not token_ids:
            raise ApiError(f"Invalid '{param}': it has no tokens.", param=param, code="empty_array")
        self.check_token_ids(token_ids, param)
        if len(token_ids) >= self.max_model_len:
            raise ApiError(
                f"{self._context()}; the prompt has {len(token_ids)}, and an answer needs at least "
                "one more.",
                param=param,
                code="context_length_exceeded",
            )

    def check_token_ids(self, token_ids: list[int], param: str) -> None:
        if token_ids and max(token_ids) >= self.vocab_size:
            raise ApiError(
                f"Invalid '{param}': token id {max(token_ids)} is outside the vocabulary of "
                f"{self.vocab_size} tokens.",
                param=param,
                code="invalid_value",
            )

    def check_max_tokens(self, num_prompt_tokens: int, max_tokens: int, param: str) -> None:
        total = num_prompt_tokens + max_tokens
        if total > self.max_model_len:
            raise ApiError(
                f"{self._context()}; {num_prompt_tokens} of the prompt + {param} = {max_tokens} "
                f"make {total}.",
                param=param,
                code="context_length_exceeded",
            )

    def _context(self) -> str:
        """OpenAI's words, by which clients tell this mistake from others."""
        return f"This model's maximum context length is {self.max_model_len} tokens"
