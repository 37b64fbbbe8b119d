"""What the `datasets` library reads by itself: the Hub, Parquet, Arrow, saved data sets, webdataset."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset, load_from_disk
from datasets.config import HF_DATASETS_CACHE
from datasets.exceptions import DatasetNotFoundError
from datasets.fingerprint import Hasher
from datasets.utils import disable_progress_bars, enable_progress_bars, is_progress_bar_enabled

from ..folders import FolderListing
from ..report import DataError
from ..splits import split_in_path
from .tars import Tars

AnyDataset: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict

BUILDERS = {".tar": "webdataset", ".parquet": "parquet", ".arrow": "arrow"}
FORMS = {"webdataset": "webdataset shards", "parquet": "Parquet", "arrow": "Arrow"}
# Known as scripts; answered without asking the Hub, since every tutorial reader types the first.
SCRIPT_DATASETS = ("nlphuji/flickr30k", "nlphuji/flickr_1k_test_image_text_retrieval")
FLICKR30K_COPIES = "umaru97/flickr30k_train_val_test (Karpathy's splits) or AnyModal/flickr30k"


def load_from_hub(repo: str, name: str | None, revision: str | None, streaming: bool) -> AnyDataset:
    """Load a Hub data set; what goes wrong on the way comes out as one sentence."""
    if repo in SCRIPT_DATASETS and revision is None:
        raise _script_error(repo)
    try:
        with quiet_when_piped():
            return load_dataset(repo, name=name, revision=revision, streaming=streaming)
    except RuntimeError as error:
        if "scripts are no longer supported" in str(error):
            raise _script_error(repo) from None
        if "client has been closed" in str(error):  # huggingface_hub before 1.28, asking a second time
            raise _unreachable_error(repo, error) from error
        raise
    except ConnectionError as error:
        raise _unreachable_error(repo, error) from error
    except DatasetNotFoundError as error:
        raise DataError(f"{error} No file or folder {repo!r} is here either.") from error


def _unreachable_error(repo: str, error: Exception) -> DataError:
    return DataError(
        f"The Hugging Face Hub cannot be reached, so {repo!r} cannot be loaded ({error}). "
        f"No folder {repo!r} is here either; data on disk are given by their path."
    )


def _script_error(repo: str) -> DataError:
    if "flickr" in repo.lower():
        advice = f"Use a Parquet copy: {FLICKR30K_COPIES}."
    else:
        advice = (
            'Use a Parquet copy of it; the Hub may have made one itself: revision="refs/convert/parquet".'
        )
    return DataError(
        f"{repo} is a script, and data set scripts no longer load in `datasets` 4 and later. {advice}"
    )


def check_for_script(folder: Path) -> None:
    """Refuse a local clone of a script data set in the same words."""
    if (folder / f"{folder.name}.py").is_file():
        raise _script_error(str(folder))


def saved_dataset(folder: Path) -> DatasetDict | Dataset | None:
    """What `save_to_disk` left in this folder, if it did."""
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return load_from_disk(str(folder))
    return None


def shards_in(listing: FolderListing) -> list[Path]:
    """The files of a folder that `datasets` reads, all of one kind: shards before Parquet before Arrow."""
    for suffix in BUILDERS:
        found = [path for path in listing.others if path.suffix == suffix]
        if found:
            return found
    return []


def shards_of_pattern(source: str) -> list[str]:
    """The files or addresses that a pattern such as `shards/{000..012}.tar` or `shards/*.tar` stands for."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", source)
    if match:
        first, last = match.groups()
        numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        return [source[: match.start()] + number + source[match.end() :] for number in numbers]
    return [source] if "://" in source else sorted(glob.glob(source))


def load_shards(files: list[str], root: Path, streaming: bool) -> AnyDataset:
    """Load shards, Parquet or Arrow files by their suffix, each under the split that its name speaks of."""
    data_files: dict[str, list[str]] = {}
    for file in files:
        data_files.setdefault(split_in_path(Path(file), root) or "train", []).append(file)
    kind = BUILDERS[Path(files[0]).suffix]
    with quiet_when_piped():
        if kind != "webdataset":
            return load_dataset(kind, data_files=data_files, streaming=streaming)
        builder = Tars(data_files=data_files)
        if streaming:
            return IterableDatasetDict(builder.as_streaming_dataset())
        builder.download_and_prepare()
        return builder.as_dataset()


def load_repo_folder(folder: Path, name: str | None, streaming: bool) -> AnyDataset:
    """Load a local copy of a Hub data set, whose README.md says which file is which."""
    with quiet_when_piped():
        return load_dataset(str(folder), name=name, streaming=streaming, cache_dir=_cache_of_state(folder))


def _cache_of_state(folder: Path) -> str:
    """A cache folder of its own for each state of the files: `datasets` tells such folders by name alone, and
    would go on giving out what they held before they were changed."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return str(Path(HF_DATASETS_CACHE) / f"folder-{Hasher.hash(state)}")


@contextmanager
def quiet_when_piped() -> Iterator[None]:
    """No progress bars of `datasets` where nobody watches them."""
    watched = sys.stderr.isatty() or not is_progress_bar_enabled()
    if not watched:
        disable_progress_bars()
    try:
        yield
    finally:
        if not watched:
            enable_progress_bars()
