"""CIFAR, whose files are pickles, and downloads: only when asked for, of what is missing."""

from __future__ import annotations

import ast
import hashlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import twins_nas.data
from twins_nas.data import (
    DATA_SETS,
    Images,
    download,
    load,
    sources,
)
from twins_nas.data.idx import file_name
from twins_nas.data.sources import EMBEDDED_FOLDER
from twins_nas.errors import UserError

KINDS = ("images", "labels")
FILES = [f"{file_name(part, kind)}.gz" for part in ("train", "test") for kind in KINDS]


def held(images: object) -> Images:
    """The images, which must be in memory."""
    assert isinstance(images, Images)
    return images


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny files in the layout of CIFAR-10, their MD5 put in the place of the published ones."""
    published = pytest.importorskip("torchvision.datasets").CIFAR10
    place = tmp_path / str(published.base_folder)
    place.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3072), dtype=np.uint8)
    entry = {"data": pixels, "labels": [i % 10 for i in range(40)]}
    contents: dict[str, dict[str, object]] = {
        "data_batch_1": entry,
        "data_batch_2": entry,
        "test_batch": entry,
        "batches.meta": {"label_names": [f"class {i}" for i in range(10)]},
    }
    sums = {}
    for file, content in contents.items():
        raw = pickle.dumps(content, protocol=2)
        (place / file).write_bytes(raw)
        sums[file] = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    train = [[file, sums[file]] for file in ("data_batch_1", "data_batch_2")]
    monkeypatch.setattr(published, "train_list", train)
    monkeypatch.setattr(published, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(published, "meta", {**published.meta, "md5": sums["batches.meta"]})
    return place


def test_cifar(cifar: Path) -> None:
    """Training files in order, RGB, and a test file that stays closed until `test()`."""
    (cifar / "test_batch").rename(cifar / "elsewhere")
    data = load("cifar10", root=cifar.parent, input_size=32, val_images=20)
    assert (len(data.train), len(data.val), data.in_chans) == (60, 20, 3)
    assert data.class_names[3] == "class 3" and len(data.mean) == 3
    with pytest.raises(UserError, match="test_batch of cifar10 cannot be read"):
        data.test()
    (cifar / "elsewhere").rename(cifar / "test_batch")
    raw = pickle.loads((cifar / "test_batch").read_bytes())["data"]
    assert np.array_equal(held(data.test()).pixels_BCHW.numpy(), raw.reshape(-1, 3, 32, 32))


class Exploit:
    """A pickle that, when opened, makes a file."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        """What unpickling would call."""
        return open, ("opened", "w")


@pytest.mark.parametrize("file", ["data_batch_2", "batches.meta"])
def test_cifar_file_with_a_wrong_md5_is_not_unpickled(
    cifar: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle that is not the published file is refused before it can run."""
    monkeypatch.chdir(cifar)
    (cifar / file).write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(UserError, match=rf"{file} is not the published file.*--download"):
        load("cifar10", root=cifar.parent, input_size=32)
    assert not (cifar / "opened").exists()


# Downloads: only when asked for, and only of what is missing.


def test_download_is_left_out_where_the_files_are(
    cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all files there, `download=True` fetches nothing."""
    monkeypatch.setattr(sources, "fetch", lambda *_: pytest.fail("downloaded in vain"))
    load("fashion-mnist", root=EMBEDDED_FOLDER, input_size=28, download=True)
    load("cifar10", root=cifar.parent, input_size=32, download=True, val_images=20)


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing address is passed over; the files of the next are unpacked and read."""
    asked = []

    def serve(url: str, download_root: str, filename: str, md5: str) -> None:
        asked.append(filename)
        if asked.count(filename) == 1:
            raise RuntimeError("File not found or corrupted.")
        Path(download_root).mkdir(parents=True, exist_ok=True)
        shutil.copy(EMBEDDED_FOLDER / filename, download_root)

    utils = pytest.importorskip("torchvision.datasets.utils")
    monkeypatch.setattr(utils, "download_and_extract_archive", serve)
    data = load("mnist", root=tmp_path, input_size=28, download=True)
    assert len(data.train) == 10_000 and len(data.test()) == 2_000
    assert asked == [name for name in FILES for _ in range(2)]
    assert (tmp_path / "MNIST" / "raw" / FILES[0]).is_file()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize("fault", [RuntimeError("corrupted"), OSError("no route to host")])
def test_failed_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: Exception
) -> None:
    """Errors of torchvision and of the network become a sentence; no part of a file stays."""

    def fail(url: str, download_root: str, filename: str, md5: str) -> None:
        Path(download_root).mkdir(parents=True, exist_ok=True)
        (Path(download_root) / filename).write_bytes(b"half")
        raise fault

    utils = pytest.importorskip("torchvision.datasets.utils")
    monkeypatch.setattr(utils, "download_and_extract_archive", fail)
    with pytest.raises(UserError, match=f"could not be downloaded to .*{fault}.*; try again"):
        load(name, root=tmp_path, input_size=32, download=True)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_every_downloadable_set_is_known_to_torchvision() -> None:
    """The names in torchvision exist, with addresses and sums."""
    published = pytest.importorskip("torchvision.datasets")
    for name, torchvision_name in download.TORCHVISION.items():
        entry = getattr(published, torchvision_name)
        assert name in DATA_SETS
        assert hasattr(entry, "resources") or (entry.url and entry.tgz_md5)


def test_torchvision_is_imported_lazily() -> None:
    """No file of the package imports torchvision when it is imported."""
    for file in Path(twins_nas.data.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "torchvision" not in ast.unparse(node), file
