"""The whole command against the fake server: many clients, the table, the file, the exit status."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from qoq.loadtest.metrics import DEFINITIONS
from qoq.loadtest.options import make_parser


async def loadtest(server: Any, *options: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "qoq.loadtest", "--base-url", server.url, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_200_clients_of_whom_60_leave(server: Any, stream: Any, tmp_path: Path) -> None:
    server.script = [(0.02, stream.text("a"))] * 20 + [(0.0, stream.ending(11, 20))]
    server.audience, server.leavers = 200, 60
    file = tmp_path / "report.json"
    options = ["--num-requests=200", "--output-len=20", "--disconnect=0.3", "--timeout-s=20"]
    status, out, err = await loadtest(server, *options, f"--json={file}")
    assert (status, err) == (0, "")
    assert "200: 140 finished, 60 left early, 0 failed, 0 not sent" in out
    assert server.max_open == 200
    assert server.num_left == 60
    report = json.loads(file.read_text())
    assert report["metrics"]["itl_s"]["count"] == pytest.approx(140 * 19)
    assert report["run"]["model"] == "fake-model"
    assert len(report["requests"]) == 200


async def test_every_definition_is_printed_under_the_table(server: Any, stream: Any) -> None:
    server.script = [(0.0, stream.text("a")), (0.0, stream.ending(11, 1))]
    _, out, _ = await loadtest(server, "--num-requests=2", "--model=m")
    table, below = out.split("e2e: ")
    assert all(f"{name}: {meaning}." in out for name, meaning in DEFINITIONS.items())
    assert "p99" in table
    assert "goodput " not in table


async def test_goodput_is_shown_with_its_targets(server: Any, stream: Any) -> None:
    server.script = [(0.0, stream.text("a")), (0.0, stream.ending(11, 1))]
    _, out, _ = await loadtest(server, "--num-requests=2", "--ttft-target-ms=60000")
    assert "output tokens/s (TTFT <= 60000.0 ms, TPOT <= inf ms)" in out


async def test_a_failed_request_shows_in_the_exit_status(server: Any) -> None:
    server.status = "500 Internal Server Error"
    status, out, _ = await loadtest(server, "--num-requests=3", "--concurrency=1")
    assert status == 1
    assert "3 x status 500" in out


async def test_lengths_and_times_come_from_a_trace(
    server: Any, stream: Any, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("t_s,input_tokens,output_tokens\n0,5,2\n0.2,7,900\n")
    server.script = [(0.0, stream.text("a")), (0.0, stream.ending(11, 1))]
    status, out, _ = await loadtest(server, f"--trace={trace}", "--max-output-len=50")
    assert status == 0
    assert "as recorded in the trace" in out
    assert [body["max_tokens"] for body in server.bodies] == [2, 50]
    prompts = [body["messages"][0]["content"] for body in server.bodies]
    assert [len(prompt.split()) for prompt in prompts] == [5, 7]


async def test_long_prompts_come_beside_the_others(
    server: Any, stream: Any, tmp_path: Path
) -> None:
    """At 0.1 and 0.2 s, while 0.5 s of tokens are streamed. Answers are scripted: all the same."""
    server.script = [(0.02, stream.text("a"))] * 25 + [(0.0, stream.ending(11, 25))]
    file = tmp_path / "report.json"
    status, out, err = await loadtest(
        *(server, "--num-requests=3", "--input-len=5", "--output-len=25", "--token-ids-below=100"),
        *("--long-prompts=2", "--long-prompt-len=300", "--long-prompt-every=0.1", f"--json={file}"),
    )
    assert (status, err) == (0, "")
    assert "long prompts: 2 of 2 finished" in out and "the others' ITL had a p99 of" in out
    lengths = [(len(body["prompt"]), body["max_tokens"]) for body in server.bodies]
    assert lengths == [(5, 25)] * 3 + [(300, 16)] * 2
    assert all(token < 100 for body in server.bodies for token in body["prompt"])
    report = json.loads(file.read_text())
    assert report["long_prompts"]["num_finished"] == 2
    assert report["long_prompts"]["itl_s"]["count"] > 0
    assert report["metrics"]["num_requests"] == 3, "long prompts are counted apart"
    assert report["metrics"]["decode"] > 0


async def test_without_a_server_it_says_so(server: Any) -> None:
    server.url = "http://127.0.0.1:1"
    status, out, err = await loadtest(server)
    assert (status, out) == (2, "")
    assert err.startswith("nothing was sent: ConnectionRefusedError")


@pytest.mark.parametrize(
    "options",
    [
        ["--num-requests=0"],
        ["--concurrency=0"],
        ["--rate=-1"],
        ["--rate=1", "--concurrency=1"],
        ["--disconnect=1.5"],
        ["--input-len=none"],
        ["--timeout-s=nan"],
        ["--base-url=localhost:8000"],
        ["--json=/no/such/folder/report.json"],
    ],
)
def test_options_that_make_no_run(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(options)
    assert options[0].split("=")[0] in capsys.readouterr().err
