"""A folder of images, one of them damaged, and a way to run commands."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tiny import tiny_dataset

from hf_customclip.cli import main


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images, `0.png` to `6.png`, of which `sub/6.png` lies deeper; and `broken.png`."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    for row in tiny_dataset(7):
        number = row["image_id"]
        row["image"].save(folder / ("sub" if number == 6 else ".") / f"{number}.png")
    whole = (folder / "0.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[[Sequence[str]], tuple[int, str, str]]:
    """Exit code, standard output and standard error of a command."""

    def run(arguments: Sequence[str]) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        return int(stopped.value.code or 0), *capsys.readouterr()

    return run
