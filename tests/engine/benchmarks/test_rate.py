import pytest

from qoq.engine.benchmarks.rate import Rate, last_first_token_s, random_prompts


def test_decode_counts_from_the_last_first_token_and_total_from_the_start():
    """Stream 2 starts at 3 s: after that come 4, 5 and 6 s, 3 tokens in 3 s; 7 tokens in 6 s."""
    streams = [[1.0, 2.0, 3.0, 4.0], [3.0, 5.0, 6.0]]
    assert last_first_token_s(streams) == 3.0
    assert Rate.of(0.0, streams) == Rate(decode=1.0, total=pytest.approx(7 / 6))


def test_a_median_is_taken_of_each_rate_by_itself():
    assert Rate.median([Rate(1, 9), Rate(2, 7), Rate(3, 8)]) == Rate(2, 8)


def test_prompts_depend_on_the_seed_alone():
    prompts = random_prompts(3, 50, 96, seed=1)
    assert prompts == random_prompts(3, 50, 96, seed=1) != random_prompts(3, 50, 96, seed=2)
    assert [len(prompt) for prompt in prompts] == [50] * 3
    assert all(0 <= token < 96 for prompt in prompts for token in prompt)
    assert prompts[0] != prompts[1], "equal prompts would share their KV"
