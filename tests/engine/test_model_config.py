import pytest

from qoq.engine.models.config import ModelConfig, RopeConfig, parse_model_config
from qoq.engine.models.registry import SUPPORTED_ARCHITECTURES

FIELDS = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 96,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}


def parse(family: str = "Llama", **fields: object) -> ModelConfig:
    return parse_model_config(FIELDS | {"architectures": [f"{family}ForCausalLM"]} | fields)


def test_what_is_left_out_has_hugging_face_s_defaults():
    config = parse()
    assert (config.num_kv_heads, config.head_dim) == (4, 16)
    assert (config.tie_word_embeddings, config.eos_token_ids) == (False, ())
    assert config.rope == RopeConfig(10000.0, "default", {})


def test_null_counts_as_left_out():
    config = parse(num_key_value_heads=None, head_dim=None, eos_token_id=None, rope_scaling=None)
    assert config == parse()


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "type": "x", "factor": 4.0}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
    ],
)
def test_every_spelling_of_rope_means_the_same(spelling: dict[str, object]):
    assert parse(**spelling).rope == RopeConfig(5e5, "linear", {"factor": 4.0})


def test_end_tokens_are_one_or_several():
    assert parse(eos_token_id=2).eos_token_ids == (2,)
    assert parse(eos_token_id=[2, 3]).eos_token_ids == (2, 3)
    assert parse(eos_token_id=0).eos_token_ids == (0,)


@pytest.mark.parametrize(
    ("family", "fields", "windows"),
    [
        ("Llama", {"sliding_window": 8}, [None] * 4),
        ("Mistral", {"sliding_window": 8}, [8] * 4),
        ("Mistral", {"sliding_window": None}, [None] * 4),
        ("Qwen2", {"sliding_window": 8}, [None] * 4),
        ("Qwen2", {"sliding_window": 8, "use_sliding_window": False}, [None] * 4),
        (
            "Qwen2",
            {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3},
            [None, None, None, 8],
        ),
        (
            "Qwen3",
            {
                "sliding_window": 8,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", *["full_attention"] * 3],
            },
            [8, None, None, None],
        ),
    ],
)
def test_windows(family: str, fields: dict[str, object], windows: list[int | None]):
    """Qwen names a window that it does not use; Mistral uses it in every layer."""
    assert parse(family, **fields).windows == tuple(windows)


def test_only_qwen3_norms_queries_and_keys():
    assert [f for f in ("Llama", "Mistral", "Qwen2", "Qwen3") if parse(f).has_qk_norm] == ["Qwen3"]


@pytest.mark.parametrize("fields", [{"architectures": ["GPT2LMHeadModel"]}, {"architectures": []}])
def test_an_unsupported_architecture_is_refused_with_the_list(fields: dict[str, object]):
    with pytest.raises(ValueError, match=", ".join(SUPPORTED_ARCHITECTURES)) as error:
        parse_model_config(FIELDS | fields)
    assert ("GPT2LMHeadModel" in str(error.value)) == bool(fields["architectures"])


def test_an_unsupported_activation_is_refused():
    with pytest.raises(ValueError, match="hidden_act 'gelu' is not supported"):
        parse(hidden_act="gelu")


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - {"architectures"}))
def test_a_missing_field_is_named(name: str):
    with pytest.raises(ValueError, match=rf"config.json: {name} is missing"):
        parse_model_config({key: value for key, value in FIELDS.items() if key != name})
