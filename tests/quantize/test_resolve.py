import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from qoq.quantize import preset, resolve
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import Recipe
from qoq.quantize.recipe_file import load_recipe
from qoq.quantize.resolve import default_cache_dir, resolve_model

from .quantized_hf import awq, qserve, write_quantized
from .tiny_gguf import write_tiny_gguf
from .tiny_hf import write_tiny_hf

RESOLVE = """
import sys
from pathlib import Path
from qoq.quantize.resolve import resolve_model
options = {"precision": None, "recipe": "rtn", "group_size": 32, "progress": False}
print(resolve_model(sys.argv[1], cache_dir=Path(sys.argv[2]), **options))
"""


def resolve_in(
    cache: Path,
    model: object,
    precision: str | None = None,
    group: int | None = 32,
    recipe: str | None = "rtn",
) -> Path:
    return resolve_model(
        str(model),
        precision=precision,
        recipe=recipe,
        group_size=group,
        cache_dir=cache,
        progress=False,
    )


@pytest.fixture
def gguf_path(tmp_path: Path) -> Path:
    write_tiny_gguf(tmp_path / "tiny-1.5.gguf")
    return tmp_path / "tiny-1.5.gguf"


def test_quantizes_on_first_use_and_then_reads_the_cache(tmp_path, gguf_path, monkeypatch):
    out = resolve_in(tmp_path / "cache", gguf_path)
    assert out.parent == tmp_path / "cache" / "checkpoints"
    assert out.name.startswith("tiny-1.5-w4a8kv4-g32-")
    monkeypatch.setattr(resolve, "quantize_model", lambda *_, **__: pytest.fail("quantized again"))
    assert resolve_in(tmp_path / "cache", gguf_path) == out


def test_precision_group_size_and_a_changed_file_each_have_their_own_entry(tmp_path, gguf_path):
    cache = tmp_path / "cache"
    outs = {resolve_in(cache, gguf_path), resolve_in(cache, gguf_path, group=-1)}
    outs |= {resolve_in(cache, gguf_path, "w8a8kv8"), resolve_in(cache, gguf_path, "fp32")}
    stat = gguf_path.stat()
    os.utime(gguf_path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    outs.add(resolve_in(cache, gguf_path))
    assert len(outs) == 5


def test_recipe_seed_and_calibration_each_have_their_own_entry(tmp_path, gguf_path, monkeypatch):
    """And the same recipe under another name has the same one."""
    monkeypatch.setattr(resolve, "quantize_model", lambda _, out, **__: out)
    (tmp_path / "same.yaml").write_text("int8_lm_head: true")
    contents = ["gptq: true", "calibration: {seed: 1}", "calibration: {num_samples: 9}", ""]
    for index, content in enumerate(contents):
        (tmp_path / f"{index}.yaml").write_text(content)
    recipes = ["rtn", *(str(tmp_path / f"{name}.yaml") for name in ("same", *range(4)))]
    outs = [resolve_in(tmp_path / "cache", gguf_path, recipe=recipe) for recipe in recipes]
    assert outs[0] == outs[1]
    assert len(set(outs)) == 5


def test_the_whole_algorithm_runs_where_no_recipe_is_named(tmp_path, gguf_path, monkeypatch):
    recipes = []

    def quantize(_: Path, out: Path, *, recipe: Recipe, **__: object) -> Path:
        recipes.append(recipe)
        return out

    monkeypatch.setattr(resolve, "quantize_model", quantize)
    for precision, group in ((None, None), ("w4a4", -1), ("w8a8kv8", None), ("fp32", None)):
        resolve_in(tmp_path / "cache", gguf_path, precision, group, recipe=None)
    named = [load_recipe(name) for name in ("qoq-per-group", "qoq-per-channel", "rtn")]
    assert recipes == [*named, Recipe()]


def test_a_recipe_is_for_models_that_get_quantized(tmp_path, gguf_path):
    """A dense precision is the model as it was, to compare with."""
    dense = resolve_in(tmp_path / "cache", gguf_path, "fp32", recipe="qoq-per-group")
    assert dense == resolve_in(tmp_path / "cache", gguf_path, "fp32")
    assert "lm_head.weight" not in load_file(dense / "model.safetensors")


def test_a_checkpoint_is_returned_as_it_is(tmp_path, gguf_path):
    out = quantize_model(gguf_path, tmp_path / "out", recipe=Recipe(group_size=32), progress=False)
    assert resolve_in(tmp_path / "cache", out) == out
    assert resolve_in(tmp_path / "cache", out, "w4a8kv4", 128) == out
    with pytest.raises(ModelSourceError, match="quantized to w4a8kv4, not w8a8kv8; leave the prec"):
        resolve_in(tmp_path / "cache", out, "w8a8kv8")
    assert not (tmp_path / "cache").exists()


def test_a_dense_folder_is_quantized_unless_a_dense_precision_is_asked_for(tmp_path):
    folder = write_tiny_hf(tmp_path / "model-2.5-Instruct")
    assert resolve_in(tmp_path / "cache", folder, "bf16") == folder
    out = resolve_in(tmp_path / "cache", folder)
    assert out.name.startswith("model-2.5-Instruct-w4a8kv4-g32-")


def test_a_preset_is_fetched_by_its_name(tmp_path, gguf_path, monkeypatch):
    monkeypatch.setattr(preset.ModelPreset, "fetch", lambda self, cache_dir: gguf_path)
    out = resolve_in(tmp_path / "cache", "smollm2-135m-instruct")
    assert out == resolve_in(tmp_path / "cache", gguf_path)


def test_a_hub_id_is_fetched_where_no_path_has_its_name(tmp_path, monkeypatch):
    folder = write_tiny_hf(tmp_path / "org" / "model")
    monkeypatch.setattr(resolve, "fetch_from_hub", lambda model: folder)
    monkeypatch.chdir(tmp_path / "org")
    assert resolve_in(tmp_path / "cache", "some/id", "fp32") == folder


@pytest.mark.parametrize("model", ["nothing", "/no/such/path", "./nothing", "dir/model.gguf"])
def test_what_does_not_exist_is_answered_with_the_choices(tmp_path: Path, model: str):
    with pytest.raises(ModelSourceError, match="neither a path that exists nor a preset .smollm2"):
        resolve_in(tmp_path, model)


def test_corrupt_models_are_named(tmp_path: Path, gguf_path: Path):
    cache = tmp_path / "cache"
    gguf_path.write_bytes(gguf_path.read_bytes()[:5000])
    with pytest.raises(ModelSourceError, match=r"tiny-1\.5\.gguf is not a whole GGUF file"):
        resolve_in(cache, gguf_path)
    (tmp_path / "notes.txt").write_text("not a model")
    with pytest.raises(ModelSourceError, match=r"notes\.txt is not a whole GGUF file"):
        resolve_in(cache, tmp_path / "notes.txt")
    folder = write_tiny_hf(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"\x08")
    with pytest.raises(ModelSourceError, match=r"model\.safetensors is not a whole safetensors"):
        resolve_in(cache, folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(ModelSourceError, match=r"config\.json is not a JSON object"):
        resolve_in(cache, folder)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(ModelSourceError, match=r"config\.json: \w+ is missing"):
        resolve_in(cache, folder)
    assert list((cache / "checkpoints").iterdir()) == []


def test_concurrent_runs_share_one_result(tmp_path: Path, gguf_path: Path):
    command = [sys.executable, "-c", RESOLVE, str(gguf_path), str(tmp_path / "cache")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outs = {run.communicate(timeout=60)[0].strip() for run in runs}
    assert len(outs) == 1
    assert [str(path) for path in (tmp_path / "cache" / "checkpoints").iterdir()] == list(outs)


def test_the_cache_is_where_the_environment_says():
    assert default_cache_dir({"QOQ_CACHE": "/x"}) == Path("/x")
    assert default_cache_dir({}) == Path.home() / ".cache" / "qoq"


def test_another_quantizers_checkpoint_is_imported_once_with_its_own_group_size(
    tmp_path, monkeypatch
):
    write_quantized(tmp_path / "model-awq", awq(64))
    out = resolve_in(tmp_path / "cache", tmp_path / "model-awq", group=32)
    assert out.name.startswith("model-awq-w4a8kv4-g64-")
    assert (out / "quantization_report.json").exists()
    monkeypatch.setattr(resolve, "import_checkpoint", lambda *_, **__: pytest.fail("again"))
    assert resolve_in(tmp_path / "cache", tmp_path / "model-awq") == out


def test_another_quantizers_checkpoint_in_other_precisions_is_dequantized(tmp_path):
    write_quantized(tmp_path / "model", qserve(32))
    out = resolve_in(tmp_path / "cache", tmp_path / "model", "fp32")
    assert out.name.startswith("model-fp32-")
    assert resolve_in(tmp_path / "cache", tmp_path / "model", "w8a8kv8").name.startswith("model-w8")
