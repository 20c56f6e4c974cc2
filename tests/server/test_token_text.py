"""Text, tokens and offsets, whatever way the tokens were cut into outputs."""

from dataclasses import replace
from random import Random

import pytest

from qoq.engine.protocol import TokenLogprobs
from qoq.server.token_text import Shown, TextOptions, TokenText
from qoq.server.tokenizer import Tokenizer

TRACED = TextOptions(traces_tokens=True, continues_prompt=True)


def show(tokenizer: Tokenizer, options: TextOptions, outputs: list[list[int]]) -> Shown:
    """Everything that is shown until the end; each token has itself as its logprob."""
    text, whole = TokenText(options, tokenizer.pieces), Shown()
    parts = []
    for token_ids in outputs:
        logprobs = [TokenLogprobs(token_id, -token_id, 1, [], []) for token_id in token_ids]
        parts.append(text.add(token_ids, logprobs))
        if parts[-1].is_stopped:
            break
    else:
        parts.append(text.finish())
    for part in parts:
        whole.text += part.text
        whole.token_ids += part.token_ids
        whole.traced += part.traced
        whole.is_stopped = part.is_stopped
    return whole


def test_does_not_depend_on_the_cuts(tokenizer: Tokenizer) -> None:
    draw = Random(0)
    for _ in range(200):
        tokens = draw.choices([*"ab é🙂".encode(), 256, 257, 259], k=12)
        stops = tuple("".join(draw.choices("ab é", k=2)) for _ in range(draw.randint(0, 2)))
        options = replace(TRACED, stops=stops, min_tokens=draw.randint(0, 3))
        cut = draw.randint(0, 12)
        whole = show(tokenizer, options, [tokens])
        assert whole == show(tokenizer, options, [[token] for token in tokens])
        assert whole == show(tokenizer, options, [tokens[:cut], tokens[cut:]])
        assert [own.logprobs.token_id for own in whole.traced] == tokens[: len(whole.traced)]


def test_halves_of_a_character_begin_where_it_does(tokenizer: Tokenizer) -> None:
    shown = show(tokenizer, TRACED, [list("a🙂b".encode())])
    assert [token.offset for token in shown.traced] == [0, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("includes_stop", "text", "offsets"), [(False, "a", [0]), (True, "a\ufffd", [0, 1])]
)
def test_a_stop_string_that_only_the_end_completes(
    tokenizer: Tokenizer, includes_stop: bool, text: str, offsets: list[int]
) -> None:
    """Half a character becomes U+FFFD once it is sure that the rest will not come."""
    options = replace(TRACED, stops=("\ufffd",), includes_stop=includes_stop)
    shown = show(tokenizer, options, [[97, 0xC3]])
    assert (shown.text, shown.is_stopped) == (text, True)
    assert [token.offset for token in shown.traced] == offsets


def test_without_stops_or_traces_outputs_are_taken_whole(tokenizer: Tokenizer) -> None:
    shown = TokenText(TextOptions(), tokenizer.pieces).add(list(b"abc"))
    assert (shown.text, shown.token_ids, shown.traced) == ("abc", [97, 98, 99], [])
