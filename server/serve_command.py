"""``qoq serve MODEL``: resolve the model, listen, start the engine, serve until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qoq.engine.config import EngineConfig
from qoq.server.config import ServerConfig
from qoq.server.config import add_arguments as add_setting_arguments

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "smollm2-135m-instruct"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        default=os.environ.get("QOQ_MODEL") or DEFAULT_MODEL,
        help="a preset's name, a checkpoint, a Hugging Face folder or hub id, or a GGUF file "
        f"[{DEFAULT_MODEL}]",
    )
    parser.add_argument(
        "--group-size",
        type=int,
        help="for a model that is quantized on first use: weights that share a 4-bit scale "
        "[the recipe's]",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME|FILE.yaml",
        default=os.environ.get("QOQ_RECIPE"),
        help="for a model that is quantized on first use, as for `qoq quantize`; rtn takes seconds "
        "instead of minutes [QOQ_RECIPE, else qoq-per-group]",
    )
    add_setting_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """0 after a clean stop; 1 after one sentence on standard error."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        with _resolved(args) as config:
            serve = _serve if config.api_workers == 1 else _serve_by_several
            return asyncio.run(serve(config))
    except (ValueError, OSError) as error:
        print(f"qoq serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


@contextmanager
def _resolved(args: argparse.Namespace) -> Iterator[ServerConfig]:
    """Settings with the checkpoint folder in the place of the model as it was named."""
    config = ServerConfig.load(args, os.environ)
    with _model_folder(args, config.engine) as folder:
        yield dataclasses.replace(
            config,
            engine=dataclasses.replace(config.engine, model=folder),
            served_model_names=config.served_model_names or (args.model,),
        )


@contextmanager
def _model_folder(args: argparse.Namespace, engine: EngineConfig) -> Iterator[Path]:
    # Here, because they import torch: the server's own modules do not.
    if engine.load_format != "auto":
        from qoq.server.dummy_model import dummy_model

        with dummy_model(Path(args.model), engine.max_model_len) as folder:
            yield folder
        return
    from qoq.quantize.resolve import default_cache_dir, resolve_model

    yield resolve_model(
        args.model,
        precision=engine.precision,
        recipe=args.recipe,
        group_size=args.group_size,
        cache_dir=default_cache_dir(),
        progress=True,
    )


async def _serve(config: ServerConfig) -> int:
    """Answers ``/health`` and ``/ready`` while the engine loads, everything once it is ready."""
    from qoq.engine.process_client import EngineStartError, ProcessClient
    from qoq.server.app import build_app
    from qoq.server.http_server import HttpServer, listen
    from qoq.server.tokenizer import Tokenizer

    engine = ProcessClient(config.engine)
    app = build_app(engine, Tokenizer.load(config.engine.model), config)
    listener = listen(config.host, config.port)
    server = HttpServer(app, listener)
    serving = asyncio.create_task(server.run_until_stopped())
    loading = asyncio.create_task(engine.start())
    try:
        await asyncio.wait((serving, loading), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            await loading
            port = listener.getsockname()[1]
            logger.info("%s is ready on http://%s:%d", config.model_name, config.host, port)
        await serving
        return 0 if server.started else 1
    except EngineStartError as error:
        print(f"qoq serve: {error}", file=sys.stderr)
        server.should_exit = True
        await serving
        return 1
    finally:
        loading.cancel()
        await engine.close()


async def _serve_by_several(config: ServerConfig) -> int:
    """As ``_serve``, with ``api_workers`` processes that answer and a relay between."""
    from qoq.engine.process_client import EngineStartError, ProcessClient
    from qoq.engine.relay import Relay
    from qoq.server.api_processes import ApiProcesses
    from qoq.server.http_server import listen_together, stop_signal

    engine = ProcessClient(config.engine)
    listeners = listen_together(config.host, config.port, config.api_workers)
    with ApiProcesses.start(config, listeners) as api:
        beside = [
            asyncio.create_task(Relay(engine, api.address).run()),
            ending := asyncio.create_task(api.first_end()),
            stopping := asyncio.create_task(stop_signal()),
            loading := asyncio.create_task(engine.start()),
        ]
        try:
            await asyncio.wait((loading, ending, stopping), return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                await loading
                port = listeners[0].getsockname()[1]
                logger.info("%s is ready on http://%s:%d", config.model_name, config.host, port)
                await asyncio.wait((ending, stopping), return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                return 0
            print(f"qoq serve: an API process ended ({ending.result()})", file=sys.stderr)
            return 1
        except EngineStartError as error:
            print(f"qoq serve: {error}", file=sys.stderr)
            return 1
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await engine.close()
