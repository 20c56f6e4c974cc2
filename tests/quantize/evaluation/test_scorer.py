"""Log-likelihoods are the model's own, however its passages are cut, packed and quantized."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from qoq.engine.build import build_runner
from qoq.engine.config import EngineConfig
from qoq.quantize.evaluation.passage import Passage
from qoq.quantize.evaluation.scorer import Scorer
from qoq.quantize.quantize import quantize_model

from ...engine.fake_quantization import FakeQuantizedModel
from ...engine.manual_steps import random_tokens
from ...engine.test_fake_quantization import FORMATS, NUMBERS, Recorder
from ...engine.test_fake_quantization import TOLERANCE as FAKE_TOLERANCE
from ...engine.test_hugging_face import TOLERANCE as DENSE_TOLERANCE
from ...engine.test_hugging_face import hugging_face_logits
from .tiny_chat import VOCAB_SIZE

U32 = 2.0**-24
# Long and short ones, some of whose tokens are context; one ends with a step of 64 tokens.
PASSAGES = [
    Passage(random_tokens(length, VOCAB_SIZE, seed=length), first)
    for length, first in ((200, 1), (2, 1), (65, 30), (129, 128), (40, 3), (3, 2), (70, 1))
]


def scorer_of(folder: Path, step_tokens: int = 512, precision: str | None = None) -> Scorer:
    config = EngineConfig(model=folder, precision=precision, kv_cache_bytes=2**23)
    runner, info, _ = build_runner(config)
    return Scorer(runner, info, step_tokens=step_tokens)


def expected_log_likelihoods(logits: Tensor, passage: Passage) -> Tensor:
    """From the logits of the whole passage, fp64."""
    rows = logits[passage.first - 1 : len(passage.tokens) - 1].double().log_softmax(dim=-1)
    return rows[torch.arange(len(rows)), torch.tensor(passage.targets)]


def test_log_likelihoods_equal_transformers(tiny_dense: Path):
    """Fails for a target that is off by one and for rows of the wrong passage.

    Every logit may be off by the tolerance times the largest; a log-likelihood has two in it.
    """
    for passage, score in zip(PASSAGES, scorer_of(tiny_dense).scores(PASSAGES), strict=True):
        logits = hugging_face_logits(tiny_dense, passage.tokens)
        expected = expected_log_likelihoods(logits, passage)
        error = (score.log_likelihoods - expected).abs().max().item()
        assert error < 2 * DENSE_TOLERANCE * logits.abs().max().item()
        rows = logits[passage.first - 1 : -1]
        best, chosen = rows.amax(dim=-1), rows.gather(1, score.top_tokens[:, None])[:, 0]
        assert (best - chosen).max() <= 2 * DENSE_TOLERANCE * logits.abs().max()


@pytest.mark.parametrize("name", FORMATS)
def test_log_likelihoods_equal_the_fake_quantization_reference(
    name: str, tiny_dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    checkpoint = quantize_model(tiny_dense, tmp_path / name, progress=False, **FORMATS[name])
    scorer = scorer_of(checkpoint, step_tokens=64)
    recorder = Recorder(monkeypatch)
    passage = PASSAGES[0]
    score = scorer.scores([passage])[0]
    reference = FakeQuantizedModel(checkpoint, **NUMBERS.get(name, {}))
    codes = recorder.codes(reference.config["num_hidden_layers"], reference.has_int8_head)
    logits = reference.logits(passage.tokens[:-1], codes)
    expected = expected_log_likelihoods(logits, passage)
    error = (score.log_likelihoods - expected).abs().max().item()
    assert error < 2 * FAKE_TOLERANCE * logits.abs().max().item()


@pytest.mark.parametrize("step_tokens", [1, 7, 64, 1000])
def test_scores_do_not_depend_on_steps_or_company(tiny_quantized: Path, step_tokens: int):
    """Logits are the same bits. The sum in a log-likelihood may be taken in another order, and of
    V positive terms it is then off by V roundings at most; its log and the difference add two.
    """
    together = scorer_of(tiny_quantized, step_tokens).scores(PASSAGES)
    alone = scorer_of(tiny_quantized)
    for passage, score in zip(PASSAGES, together, strict=True):
        single = alone.scores([passage])[0]
        assert torch.equal(score.top_tokens, single.top_tokens)
        bound = (VOCAB_SIZE + 2 * (1 + single.log_likelihoods.abs())) * U32
        assert ((score.log_likelihoods - single.log_likelihoods).abs() <= bound).all()


def test_a_second_run_does_not_see_the_first(tiny_quantized: Path):
    """Request ids and blocks are used again, and a run may have been left in the middle."""
    scorer = scorer_of(tiny_quantized, step_tokens=64)
    first = scorer.scores(PASSAGES[:2])
    next(iter(scorer.predictions(PASSAGES)))
    again = scorer.scores(PASSAGES[:2])
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.log_likelihoods, b.log_likelihoods)


def test_more_passages_than_the_cache_holds(tiny_quantized: Path):
    """They wait for blocks, and each is predicted once."""
    config = EngineConfig(model=tiny_quantized, kv_cache_bytes=2**17)
    runner, info, _ = build_runner(config)
    passages = [Passage(random_tokens(30, VOCAB_SIZE, seed=i)) for i in range(2 * info.num_blocks)]
    scorer = Scorer(runner, info, step_tokens=2000)
    scores = scorer.scores(passages)
    assert [len(score.log_likelihoods) for score in scores] == [29] * len(passages)
    assert scorer.num_tokens == 29 * len(passages)


def test_continuations_are_greedy(tiny_dense: Path):
    """Each token is the likeliest one after those before it."""
    scorer = scorer_of(tiny_dense)
    prompts = [passage.tokens[:50] for passage in PASSAGES[2:5]]
    for prompt, continuation in zip(prompts, scorer.continuations(prompts, 12), strict=True):
        assert len(continuation) == 12
        score = scorer.scores([Passage(prompt + continuation, len(prompt))])[0]
        assert score.top_tokens.tolist() == continuation


@pytest.mark.parametrize(
    ("passage", "message"),
    [
        (Passage([1]), "a passage of 1 tokens has no token to predict from 1 on"),
        (Passage([1, 2], first=2), "no token to predict from 2 on"),
        (Passage([1] * 600), "of 600 tokens exceeds the 512 that dense takes; use a smaller --win"),
    ],
)
def test_impossible_passages_are_refused(tiny_dense: Path, passage: Passage, message: str):
    with pytest.raises(ValueError, match=message):
        scorer_of(tiny_dense).scores([passage])


def test_load_makes_room_for_a_whole_window_in_every_precision(tiny_dense: Path):
    for precision in ("fp32", "w16a16kv4"):
        scorer = Scorer.load(tiny_dense, precision, max_tokens=400)
        assert scorer.info.max_model_len == 400
        assert scorer.info.precision == precision
        assert len(scorer.scores([Passage([1] * 400)])[0].top_tokens) == 399
