import pytest

from qoq.engine.checkpoint import FORMAT_VERSION as ENGINE_FORMAT_VERSION
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantization_config import FORMAT_VERSION, QuantizationConfig


def test_writes_the_format_version_that_the_engine_reads():
    assert FORMAT_VERSION == ENGINE_FORMAT_VERSION


@pytest.mark.parametrize(
    ("config", "label"),
    [
        (QuantizationConfig(), "w4a8kv4-g128"),
        (QuantizationConfig("w4a8kv4", 64), "w4a8kv4-g64"),
        (QuantizationConfig("w4a8kv4", -1), "w4a8kv4-channel"),
        (QuantizationConfig("w8a8kv8"), "w8a8kv8"),
        (QuantizationConfig("bf16"), "bf16"),
    ],
)
def test_label_tells_formats_apart(config: QuantizationConfig, label: str):
    assert config.label == label


def test_survives_json_and_w8_has_no_group_size():
    for config in (QuantizationConfig("w4a8kv4", -1), QuantizationConfig("w8a8kv8")):
        assert QuantizationConfig.from_json(config.to_json()) == config
    assert "group_size" not in QuantizationConfig("w8a8kv8").to_json()


def test_refuses_unknown_precisions_sizes_methods_and_versions():
    with pytest.raises(ModelSourceError, match="precision 'w3' is unknown; choose one of w4a8kv4"):
        QuantizationConfig("w3")
    with pytest.raises(ModelSourceError, match="group size 48 is not supported"):
        QuantizationConfig("w4a8kv4", 48)
    with pytest.raises(ModelSourceError, match="already quantized by 'awq'"):
        QuantizationConfig.from_json({"quant_method": "awq"})
    with pytest.raises(ModelSourceError, match="format version 2"):
        QuantizationConfig.from_json({"quant_method": "qoq", "format_version": 2})
