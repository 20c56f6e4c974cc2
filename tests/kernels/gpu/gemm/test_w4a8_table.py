"""The table of GEMM configurations: what it chooses, and that what is shipped can be read."""

import pytest

from qoq.kernels.gpu.gemm.w4a8_config import HopperTile, TileConfig, portable_config
from qoq.kernels.gpu.gemm.w4a8_table import Choice, GemmTable, Shape, shipped_table

SMALL, LARGE = HopperTile(16, 4, 2, channels=64), HopperTile(256, 4, takes_turns=True)
WIDE = TileConfig(64, 128, 4, 4, 2, True)
TABLE = GemmTable(
    "a card",
    {
        Shape(6144, 4096, False): [Choice(16, SMALL, 8.25), Choice(2048, LARGE, 68.0)],
        Shape(4096, 14336, False): [Choice(16, WIDE, 15.0)],
        Shape(6144, 4096, True): [Choice(16, WIDE, 7.0)],
    },
)


@pytest.mark.parametrize(
    ("m", "config"), [(1, SMALL), (16, SMALL), (17, LARGE), (2048, LARGE), (99999, LARGE)]
)
def test_smallest_bucket_that_holds_the_tokens(m: int, config: HopperTile):
    assert TABLE.choose(Shape(6144, 4096, False), m) == config


def test_an_unmeasured_shape_takes_its_nearest_of_the_same_kind():
    assert TABLE.choose(Shape(5120, 5120, False), 1) == SMALL
    assert TABLE.choose(Shape(5120, 13824, False), 1) == WIDE
    assert TABLE.choose(Shape(4096, 14336, True), 1) == WIDE


def test_json_keeps_the_table():
    copy = GemmTable.from_json(TABLE.to_json())
    rounded = [Choice(16, SMALL, 8.2), Choice(2048, LARGE, 68.0)]
    assert copy.choices == TABLE.choices | {Shape(6144, 4096, False): rounded}
    assert copy.measured_on == "a card"


def test_a_table_without_channels_means_128():
    fields = HopperTile(64, 4, 2)._asdict()
    del fields["channels"]
    choice = Choice.from_json({"max_m": 64, "us": 9.8, "hopper": fields})
    assert choice.config == HopperTile(64, 4, 2, channels=128)


def test_the_shipped_table_covers_all_buckets():
    table = shipped_table(90)
    assert table is not None and "H100" in table.measured_on
    for choices in table.choices.values():
        buckets = [choice.max_m for choice in choices]
        assert buckets == sorted(buckets) and buckets[0] <= 16 and buckets[-1] >= 1024


def test_no_table_of_what_nobody_measured():
    assert shipped_table(75) is None


@pytest.mark.parametrize("m", [1, 16, 17, 64, 65, 5000])
def test_the_portable_choice_starts_early_only_where_the_gpu_can(m: int):
    assert portable_config(m, 90).overlaps and not portable_config(m, 89).overlaps
    assert portable_config(m, 80).block_m >= min(m, 128)


@pytest.mark.parametrize(
    ("block_m", "strips"),
    [(16, (16,)), (256, (256,)), (96, (64, 32)), (160, (128, 32)), (224, (128, 64, 32))],
)
def test_a_tile_s_tokens_are_strips_of_powers_of_two(block_m: int, strips: tuple[int, ...]):
    assert HopperTile(block_m, 4).strips == strips


@pytest.mark.parametrize(("block_m", "channels"), [(96, 64), (240, 128), (100, 128), (8, 128)])
def test_strips_that_no_tile_has_are_refused(block_m: int, channels: int):
    with pytest.raises(ValueError, match=f"block_m: expected .* got {block_m}"):
        _ = HopperTile(block_m, 4, 2, channels=channels).strips
