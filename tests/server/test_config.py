"""Flags over environment over file over defaults, for every field of both dataclasses."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from qoq.engine.config import EngineConfig
from qoq.engine.protocol import Pooling
from qoq.server.config import ConfigError, ServerConfig, add_arguments
from qoq.server.options import parse_size


def load(*flags: str, environ: dict[str, str] | None = None) -> ServerConfig:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?")
    add_arguments(parser)
    return ServerConfig.load(parser.parse_args(flags), environ or {})


def test_defaults() -> None:
    config = load("some/model")
    assert config == ServerConfig(engine=EngineConfig(model=Path("some/model")))
    assert config.model_name == "model"
    named = load("m", "--served-model-name", "x", "--served-model-name", "y")
    assert (named.model_name, named.model_names) == ("x", ("x", "y"))


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "qoq.yaml"
    file.write_text("port: 1\nhost: file\nmax_num_seqs: 3\n")
    environ = {"QOQ_CONFIG": str(file), "QOQ_PORT": "2", "QOQ_HOST": "environment"}
    config = load("--port", "4", environ=environ)
    assert (config.port, config.host, config.engine.max_num_seqs) == (4, "environment", 3)
    config = load("--config", str(file))
    assert (config.port, config.host) == (1, "file")


CHOICES = {"device": "cpu", "load_format": "dummy"}  # fields that take no other text


@pytest.mark.parametrize("config_class", [ServerConfig, EngineConfig])
def test_every_field_has_a_flag_a_variable_and_a_key(config_class: type, tmp_path: Path) -> None:
    """A field that is added to either dataclass needs nothing else."""
    examples = {
        "bool": ("false", False),
        "int": ("7", 7),
        "str": ("x", "x"),
        "Path": ("p", Path("p")),
        "Pooling": ("last", Pooling.LAST),
    }
    examples |= {"float": ("0.5", 0.5), "tuple[str, ...]": ("k", ("k",))}
    keys = tmp_path / "p"
    keys.write_text("from-file")
    for field in dataclasses.fields(config_class):
        if field.name in ("engine", "model"):
            continue
        text, value = examples[str(field.type).removesuffix(" | None")]
        if field.name == "api_key_file":
            text, value = str(keys), keys
        if field.name in CHOICES:
            text = value = CHOICES[field.name]
        name = field.metadata.get("flag", field.name)
        flag = f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
        file = tmp_path / "qoq.yaml"
        file.write_text(f"{name}: {text}\n")
        for config in (
            load(flag, *([] if value is False else [text])),
            load(environ={f"QOQ_{name.upper()}": text}),
            load("--config", str(file)),
        ):
            owner = config if config_class is ServerConfig else config.engine
            assert getattr(owner, field.name) == value


def test_api_keys_from_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("three\n\n  four  \n")
    config = load("--api-key", "one", "--api-key", "two", "--api-key-file", str(file))
    assert config.api_keys == ("one", "two", "three", "four")
    assert load(environ={"QOQ_API_KEY": "one, two"}).api_keys == ("one", "two")
    assert load(environ={"QOQ_API_KEY": ""}).api_keys == (), "compose files set it to nothing"
    assert "three" not in repr(config)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("512", 512),
        ("512MiB", 512 << 20),
        ("512M", 512 << 20),
        ("2GB", 2 * 10**9),
        ("1.5 KiB", 1536),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value
    assert load("--kv-cache-bytes", text).engine.kv_cache_bytes == value


@pytest.mark.parametrize(
    ("flags", "environ", "yaml", "sentence"),
    [
        (["--port", "x"], {}, "", "--port: 'x' is not an integer."),
        (["--port", "70000"], {}, "", "--port: 70000 is not between 0 and 65535."),
        ([], {"QOQ_PORT": "x"}, "", "QOQ_PORT: 'x' is not an integer."),
        ([], {"QOQ_ENABLE_PREFIX_CACHING": "maybe"}, "", "'maybe' is not true or false."),
        (["--kv-cache-bytes", "lots"], {}, "", "'lots' is not a size like 512MiB"),
        ([], {}, "prot: 8000", "there is no setting prot; did you mean port?"),
        ([], {}, "port: [1]", "port: [1] is not a single value."),
        ([], {}, "port: true", "port: True is not a single value."),
        ([], {}, "- port", "holds no settings"),
        ([], {}, "port: {", "cannot be read"),
        (["--config", "/nowhere.yaml"], {}, "", "/nowhere.yaml: cannot be read"),
        (["--api-key-file", "/nowhere"], {}, "", "--api-key-file: /nowhere cannot be read"),
        (["--api-key-file", "/dev/null"], {}, "", "/dev/null holds no key."),
        (["--api-key", ""], {}, "", "--api-key: a key is empty."),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, flags: list[str], environ: dict[str, str], yaml: str, sentence: str
) -> None:
    file = tmp_path / "qoq.yaml"
    file.write_text(yaml)
    flags = flags if "--config" in flags else [*flags, "--config", str(file)]
    with pytest.raises(ConfigError) as caught:
        load(*flags, environ=environ)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("--help")
    text = capsys.readouterr().out
    assert "--no-enable-prefix-caching" in text
    assert "port to listen on, 0 for any free one [8000]" in " ".join(text.split())
