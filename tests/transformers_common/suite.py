"""transformers' own common tests, out of the source distribution of the installed version.

It carries the mixins, but not the folders beside them: the few names that they import from there, none of
which concerns a dual encoder, are stood in for.
"""

import errno
import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType
from unittest import mock

import transformers
import transformers.utils

PACKAGE = "transformers_own_tests"
# What transformers' test_configuration_utils.py holds: values that are nobody's defaults.
CONFIG_KWARGS = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "architectures": ["CustomClipModel"],
    "problem_type": "regression",
}


def download(cache: Path) -> Path:
    """A folder in `cache` with the tests of the installed transformers and what they import.

    Raises:
        OSError: pip could not fetch them; its own words.
    """
    wanted = f"transformers=={transformers.__version__}"
    folder = cache / wanted.replace("==", "-")
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            fetched = Path(temporary) / "fetched"
            _pip("install", "--target", str(fetched), "parameterized")
            _pip("download", "--no-deps", "--no-binary", "transformers", "--dest", temporary, wanted)
            with tarfile.open(next(Path(temporary).glob("transformers-*.tar.gz"))) as archive:
                tests = [member for member in archive if member.name.split("/")[1:2] == ["tests"]]
                archive.extractall(fetched, tests, filter="data")
            try:
                os.rename(fetched, folder)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another worker was faster
                    raise
    return folder


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip() or "pip failed without a word")


def load(folder: Path, name: str) -> ModuleType:
    """The common test module `name` from a folder made by `download`."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    package = _stand_in(PACKAGE)
    package.__path__ = [str(path) for path in folder.glob("transformers-*/tests")]
    _stand_in(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    _stand_in(f"{PACKAGE}.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
    _stand_in(f"{PACKAGE}.utils.test_configuration_utils", config_common_kwargs=CONFIG_KWARGS)
    _stand_in("fetch_hub_objects_for_ci", url_to_local_path=lambda url: url)
    with mock.patch.object(transformers.utils, "direct_transformers_import", lambda *_: transformers):
        return importlib.import_module(f"{PACKAGE}.{name}")


def _stand_in(name: str, **content: object) -> ModuleType:
    parent = name.rpartition(".")[0]
    if parent:
        _stand_in(parent)
    module = sys.modules.setdefault(name, ModuleType(name))
    module.__path__ = getattr(module, "__path__", [])
    vars(module).update(content)
    return module
