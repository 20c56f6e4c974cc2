import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qoq.quantize.staging_folder import staging_folder

HANG = """
import sys, time
from pathlib import Path
from qoq.quantize.staging_folder import staging_folder
with staging_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    (folder / "deep").mkdir()
    print("ready", flush=True)
    time.sleep(60)
"""


def test_the_folder_appears_whole_and_leaves_nothing_else(tmp_path: Path):
    with staging_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), staging_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_no_result_and_the_next_run_cleans_up(tmp_path: Path):
    command = [sys.executable, "-c", HANG, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    with staging_folder(tmp_path / "out") as folder:
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_existing_folder_is_refused_and_untouched(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with (
        pytest.raises(FileExistsError, match="out exists already"),
        staging_folder(tmp_path / "out"),
    ):
        pytest.fail("entered")
    assert (tmp_path / "out" / "mine").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_refused_and_an_empty_folder_is_taken(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError), staging_folder(tmp_path / "file"):
        pytest.fail("entered")
    (tmp_path / "empty").mkdir()
    with staging_folder(tmp_path / "empty") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "empty" / "a").exists()


def test_of_many_at_once_one_writes_and_the_others_find_its_result(tmp_path: Path):
    written: list[int] = []
    refused: list[int] = []

    def write(number: int) -> None:
        try:
            with staging_folder(tmp_path / "out") as folder:
                (folder / "number").write_text(str(number))
                written.append(number)
        except FileExistsError:
            refused.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1 and len(refused) == 15
    assert (tmp_path / "out" / "number").read_text() == str(written[0])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_waiter_takes_over_from_a_run_that_fails(tmp_path: Path):
    entered, released = threading.Event(), threading.Event()

    def fail() -> None:
        with pytest.raises(ValueError), staging_folder(tmp_path / "out"):
            entered.set()
            released.wait(10)
            raise ValueError

    thread = threading.Thread(target=fail)
    thread.start()
    entered.wait(10)
    threading.Timer(0.1, released.set).start()
    with staging_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_content_is_on_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every file is synced while the final name does not exist yet."""
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(f"{os.readlink(f'/proc/self/fd/{descriptor}')} {(tmp_path / 'out').exists()}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with staging_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    assert f"{tmp_path}/.out.partial/a False" in synced
    assert f"{tmp_path}/.out.partial False" in synced
    assert synced[-1] == f"{tmp_path} True"
