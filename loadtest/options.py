"""The command line of the load test, with its values checked."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from qoq.loadtest.workload import Lengths, parse_lengths


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -P -m qoq.loadtest",
        description="Sends streaming requests and reports what the clients saw. Exits with 1 when "
        "a request failed or was not sent.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_server(parser)
    _add_load(parser)
    _add_long_prompts(parser)
    _add_report(parser)
    return parser


def _add_server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the server").add_argument
    add("--base-url", type=_url, default="http://127.0.0.1:8000", help="without /v1")
    add("--model", help="unless given, the first one the server lists")
    add("--endpoint", choices=["chat/completions", "completions"], default="chat/completions")
    add("--api-key", help="sent as a bearer token")


def _add_load(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the load; all at once unless something says when")
    when = group.add_mutually_exclusive_group()
    when.add_argument("--concurrency", type=_count, help="closed loop of this many clients")
    when.add_argument("--rate", type=_above_zero, help="Poisson arrivals, so many a second")
    add = group.add_argument
    add(
        "--token-ids-below",
        type=_count,
        metavar="N",
        help="prompts are random token ids instead of words, sent to completions",
    )
    add("--trace", type=Path, help="CSV of lengths, and of arrival times unless given above")
    add("--num-requests", type=_count, default=100, help="at most; a trace may hold fewer")
    add(
        "--input-len", type=_lengths, default="128", help="N, uniform:A:B or lognormal:MEDIAN:SIGMA"
    )
    add("--output-len", type=_lengths, default="64", help="likewise; what the server is asked for")
    add("--max-input-len", type=_count, default=4096, help="cut what a draw or trace exceeds")
    add("--max-output-len", type=_count, default=4096, help="likewise")
    add("--disconnect", type=_share, default=0.0, help="share of clients that hang up midway")
    add("--seed", type=int, default=0, help="of lengths, prompts, arrivals and who hangs up")
    add("--timeout-s", type=_above_zero, default=120.0, help="for one request")
    add("--limit-s", type=_above_zero, default=600.0, help="after so long nothing more is sent")


def _add_long_prompts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("long prompts that arrive while the others are answered")
    add = group.add_argument
    add("--long-prompts", type=int, default=0, metavar="N", help="so many beside the others")
    add("--long-prompt-len", type=_count, default=16384, metavar="N", help="tokens of each")
    add("--long-prompt-every", type=_above_zero, default=1.0, metavar="S", help="seconds between")


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the report").add_argument
    add("--ttft-target-ms", type=_above_zero, default="inf", help="for goodput")
    add("--tpot-target-ms", type=_above_zero, default="inf", help="for goodput")
    add("--json", type=_new_file, metavar="FILE", help="the report, and a row for each request")
    add("--plot", type=_plot_file, metavar="FILE", help="the distributions; needs matplotlib")


def _url(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is not an http:// or https:// URL")
    return text


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _above_zero(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def _lengths(text: str) -> Lengths:
    try:
        return parse_lengths(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _new_file(text: str) -> Path:
    """Checked before the run rather than after it."""
    if not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {Path(text).parent}")
    return Path(text)


def _plot_file(text: str) -> Path:
    if find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("plots need matplotlib: pip install 'qoq[loadtest]'")
    return _new_file(text)
