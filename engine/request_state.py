"""What a model runner keeps of the requests that it was told of, between steps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from qoq.engine.grammar import Grammars, Matcher
from qoq.engine.prompt_pass import PromptPass
from qoq.scheduler.batch import NO_TOKEN, Batch, Extras, NewRequest, TokenLogprobs
from qoq.scheduler.request import SamplingParams


@dataclass(slots=True, eq=False)
class RequestState:
    """``token_ids`` are those known on the host."""

    token_ids: list[int]
    num_prompt_tokens: int
    sampling: SamplingParams
    matcher: Matcher | None
    prompt_pass: PromptPass | None
    block_table: list[int] = field(default_factory=list)

    def take(self, token_id: int) -> int:
        """The token, or NO_TOKEN where the grammar cannot be followed any further."""
        self.token_ids.append(token_id)
        if self.matcher is None:
            return token_id
        self.matcher.advance([token_id])
        return NO_TOKEN if self.matcher.has_failed else token_id

    def take_extras(self, logprobs: TokenLogprobs | None) -> Extras | None:
        """The new token's log-probabilities, and once what the prompt gave; None if neither."""
        prompt_pass, self.prompt_pass = self.prompt_pass, None
        if prompt_pass is None and logprobs is None:
            return None
        extras = Extras() if prompt_pass is None else prompt_pass.extras()
        return replace(extras, logprobs=None if logprobs is None else [logprobs])


class RequestStates:
    """By request id."""

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        self._states: dict[str, RequestState] = {}

    def __getitem__(self, request_id: str) -> RequestState:
        return self._states[request_id]

    def update(self, batch: Batch) -> None:
        """Forget the dropped requests, make the new ones, extend block tables."""
        for request_id in batch.dropped:
            self._states.pop(request_id, None)
        for item in batch.scheduled:
            if item.new is not None:
                self._states[item.request_id] = self._new(item.new)
            self._states[item.request_id].block_table += item.new_block_ids

    def _new(self, new: NewRequest) -> RequestState:
        grammar, output = new.sampling.grammar, new.token_ids[new.num_prompt_tokens :]
        matcher = None if grammar is None else self._grammars.matcher(grammar, output)
        # A request that resumes with output has delivered what its prompt gave.
        is_wanted = new.sampling.needs_whole_prompt and not output
        prompt_pass = PromptPass(new.token_ids, new.sampling) if is_wanted else None
        return RequestState(
            list(new.token_ids), new.num_prompt_tokens, new.sampling, matcher, prompt_pass
        )
