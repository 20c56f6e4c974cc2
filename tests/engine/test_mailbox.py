import asyncio

import pytest

from qoq.engine.mailbox import Mailbox
from qoq.engine.protocol import Extras, FinishReason, TokenLogprobs, TokenOutput


def output(*token_ids: int, time_s: float = 0.0, **fields: object) -> TokenOutput:
    return TokenOutput(request_id="r", token_ids=list(token_ids), time_s=time_s, **fields)


async def test_hands_on_what_arrived():
    mailbox = Mailbox()
    mailbox.put(output(1))
    assert await mailbox.get() == output(1)


async def test_get_waits_for_the_next_output():
    """A reader that is woken by an old arrival would spin, or hand on nothing."""
    mailbox = Mailbox()
    mailbox.put(output(1))
    await mailbox.get()
    waiting = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    mailbox.put(output(2))
    assert await waiting == output(2)


async def test_merges_what_a_slow_reader_left():
    """Every token in order, the newest time and finish reason, the first facts of the start."""
    mailbox = Mailbox()
    mailbox.put(output(1, time_s=1.0, scheduled_s=0.5, num_cached_tokens=64))
    mailbox.put(output(2, time_s=2.0, scheduled_s=0.5, num_cached_tokens=64))
    mailbox.put(output(time_s=3.0, finish_reason=FinishReason.ABORT, scheduled_s=0.5))
    merged = await mailbox.get()
    assert merged.token_ids == [1, 2]
    assert (merged.time_s, merged.finish_reason) == (3.0, FinishReason.ABORT)
    assert (merged.scheduled_s, merged.num_cached_tokens) == (0.5, 64)


async def test_an_error_comes_after_what_arrived_before_it_and_stays():
    mailbox = Mailbox()
    mailbox.put(output(1))
    mailbox.fail(RuntimeError("gone"))
    assert await mailbox.get() == output(1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="gone"):
            await mailbox.get()


async def test_an_error_wakes_the_reader():
    mailbox = Mailbox()
    waiting = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    mailbox.fail(RuntimeError("gone"))
    with pytest.raises(RuntimeError, match="gone"):
        await asyncio.wait_for(waiting, timeout=1)


async def test_merged_outputs_keep_what_came_beside_their_tokens():
    """Log-probabilities for every token; the prompt's, which came with the first, once."""

    def extras(token: int, **fields: object) -> Extras:
        return Extras(logprobs=[TokenLogprobs(token, -1.0, 1, [], [])], **fields)

    mailbox = Mailbox()
    mailbox.put(output(1, extras=extras(1, prompt_logprobs=[])))
    mailbox.put(output(2, extras=extras(2)))
    merged = await mailbox.get()
    assert [own.token_id for own in merged.extras.logprobs] == merged.token_ids == [1, 2]
    assert merged.extras.prompt_logprobs == []
