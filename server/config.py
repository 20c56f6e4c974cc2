"""All settings, read once: flags over ``QOQ_*`` variables over one YAML file over defaults."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qoq.engine.config import EngineConfig
from qoq.engine.protocol import Pooling
from qoq.server.options import ConfigError, Option, options_of

__all__ = ["ConfigError", "ServerConfig", "add_arguments"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """``served_model_names`` default to the model folder's. Without ``api_keys`` all may call."""

    engine: EngineConfig
    host: str = field(default="127.0.0.1", metadata={"help": "address to listen on"})
    port: int = field(default=8000, metadata={"help": "port to listen on, 0 for any free one"})
    served_model_names: tuple[str, ...] = field(
        default=(),
        metadata={"flag": "served_model_name", "help": "name of the model in the API; repeatable"},
    )
    api_keys: tuple[str, ...] = field(
        default=(),
        repr=False,
        metadata={"flag": "api_key", "help": "key that clients must send; repeatable"},
    )
    api_key_file: Path | None = field(
        default=None, metadata={"help": "file with one more API key a line"}
    )
    max_body_bytes: int = field(
        default=16 * 1024**2, metadata={"help": "largest request body, like 16MiB"}
    )
    api_workers: int = field(default=1, metadata={"help": "processes that answer HTTP"})
    max_requests: int = field(
        default=4096,
        metadata={"help": "requests that a process answers at a time; more get a 429"},
    )
    keep_alive_s: float = field(
        default=15.0,
        metadata={"help": "silence of a stream after which a comment is sent, 0 for never"},
    )
    pooling: Pooling = field(
        default=Pooling.MEAN, metadata={"help": "of embeddings: mean or last (token)"}
    )

    @property
    def model_names(self) -> tuple[str, ...]:
        """All that clients may use; the first is the one in logs and metrics."""
        return self.served_model_names or (self.engine.model.name,)

    @property
    def model_name(self) -> str:
        return self.model_names[0]

    @classmethod
    def load(cls, args: argparse.Namespace, environ: Mapping[str, str]) -> ServerConfig:
        """Raises ConfigError. ``args`` comes from a parser that `add_arguments` has seen.

        ``engine.model`` is ``args.model`` as given; who resolves it replaces it.
        """
        path = getattr(args, "config", None) or environ.get("QOQ_CONFIG")
        sources = _Sources(vars(args), environ, _read_yaml(Path(path)) if path else {}, path)
        server = {option.name: sources.value(option) for option in _SERVER_OPTIONS}
        engine = {option.name: sources.value(option) for option in _ENGINE_OPTIONS}
        _check_port(server["port"])
        if server["api_key_file"] is not None:
            server["api_keys"] += _read_api_keys(server["api_key_file"])
        if not all(server["api_keys"]):
            raise ConfigError("--api-key: a key is empty.")
        for name, flag in (("max_requests", "--max-requests"), ("api_workers", "--api-workers")):
            if server[name] < 1:
                raise ConfigError(f"{flag}: {server[name]} is not at least 1.")
        model = Path(getattr(args, "model", None) or "")
        return cls(engine=EngineConfig(model=model, **engine), **server)


_SERVER_OPTIONS = options_of(ServerConfig, skip=frozenset({"engine"}))
_ENGINE_OPTIONS = options_of(EngineConfig, skip=frozenset({"model"}))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds every flag but the model, which is the caller's positional argument."""
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings [QOQ_CONFIG]")
    for option in _SERVER_OPTIONS + _ENGINE_OPTIONS:
        option.add_to(parser)


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where a setting may come from, the first that has it wins."""

    args: Mapping[str, Any]
    environ: Mapping[str, str]
    file: Mapping[str, Any]
    path: str | None

    def value(self, option: Option) -> Any:
        if option.name in self.args:
            return option.parse(self.args[option.name], option.flag)
        if self.environ.get(option.variable):  # set to nothing is not set
            return option.parse(self.environ[option.variable], option.variable)
        if option.flag_name in self.file:
            return option.parse(self.file[option.flag_name], f"{self.path}: {option.flag_name}")
        return option.default


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no settings, which are lines of 'name: value'.")
    known = [option.flag_name for option in _SERVER_OPTIONS + _ENGINE_OPTIONS]
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise ConfigError(f"{path}: there is no setting {key}{hint}")
    return content


def _read_api_keys(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file: {path} cannot be read: {error}.") from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise ConfigError(f"--api-key-file: {path} holds no key.")
    return keys


def _check_port(port: int) -> None:
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port: {port} is not between 0 and 65535.")
