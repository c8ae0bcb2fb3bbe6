"""Data sets by name: the embedded set, the full one where present, splits, faults of files."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from twins_nas.data import (
    DATA_SETS,
    EMBEDDED,
    ImageData,
    Images,
    batches,
    load,
    sources,
)
from twins_nas.data.idx import file_name, read_idx
from twins_nas.data.images import mean_std
from twins_nas.data.sources import EMBEDDED_FOLDER, stratified_split
from twins_nas.errors import UserError

KINDS = ("images", "labels")
FILES = [f"{file_name(part, kind)}.gz" for part in ("train", "test") for kind in KINDS]


@pytest.fixture(scope="module")
def mini() -> ImageData:
    """The embedded set at 32 px."""
    return load(EMBEDDED, root=None, input_size=32)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with copies of the embedded files, read under the name fashion-mnist."""
    for name in FILES:
        shutil.copy(EMBEDDED_FOLDER / name, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def build(repo: Path) -> ModuleType:
    """The script that built the embedded set."""
    spec = importlib.util.spec_from_file_location("build", repo / "scripts/build_fashion_mini.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_copy(place: Path, **options: Any) -> ImageData:
    """The copied files as fashion-mnist, at 28 px."""
    return load("fashion-mnist", root=place, input_size=28, **options)


def write_gz(path: Path, shape: tuple[int, ...], data: bytes, magic: int = 0x0800) -> None:
    """An IDX file with any header."""
    head = struct.pack(f">{1 + len(shape)}I", magic + len(shape), *shape)
    path.write_bytes(gzip.compress(head + data))


def held(images: object) -> Images:
    """The images, which must be in memory."""
    assert isinstance(images, Images)
    return images


# The embedded set and its script.


def test_embedded_files_are_the_recorded_ones(build: ModuleType) -> None:
    """Four files with the recorded sums, a LICENSE, 8 MB at most."""
    for key, value in build.SHA256.items():
        part, kind = key.split("-")
        raw = (EMBEDDED_FOLDER / f"{file_name(part, kind)}.gz").read_bytes()
        assert hashlib.sha256(raw).hexdigest() == value
    assert len(build.SHA256) == 4
    assert "(c) 2017 Zalando SE" in (EMBEDDED_FOLDER / "LICENSE").read_text()
    assert sum(file.stat().st_size for file in EMBEDDED_FOLDER.iterdir()) <= 8_000_000


def test_embedded_set_is_the_subset_of_the_full_one(build: ModuleType, full_fashion: Path) -> None:
    """Its images are the first of each class of the full set, in order, labels alike."""
    for part, count in build.PER_CLASS.items():
        names = {kind: f"{file_name(part, kind)}.gz" for kind in KINDS}
        labels_B = read_idx(full_fashion / names["labels"], 1, "")
        chosen_B = build.first_of_each_class(labels_B, count)
        assert torch.equal(labels_B[chosen_B], read_idx(EMBEDDED_FOLDER / names["labels"], 1, ""))
        pixels_BHW = read_idx(full_fashion / names["images"], 3, "")[chosen_B]
        assert torch.equal(pixels_BHW, read_idx(EMBEDDED_FOLDER / names["images"], 3, ""))


def test_build_is_deterministic(build: ModuleType, tmp_path: Path) -> None:
    """Two builds, a second apart in the clock of the files, give the same bytes."""
    few = {"train": 20, "test": 10}
    first = build.build(EMBEDDED_FOLDER, tmp_path / "a", few)
    assert build.build(EMBEDDED_FOLDER, tmp_path / "b", few) == first
    for name in [*FILES, "LICENSE"]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert name == "LICENSE" or (tmp_path / "a" / name).read_bytes()[4:8] == bytes(4)
    labels_B = read_idx(tmp_path / "a" / FILES[1], 1, "")
    assert labels_B.bincount().tolist() == [20] * 10


# Loading and splitting.


def test_embedded_set(mini: ImageData) -> None:
    """Counts, types and facts of the default set."""
    train, val, test = held(mini.train), held(mini.val), held(mini.test())
    assert (len(train), len(val), len(test)) == (10_000, 2_000, 2_000)
    assert (mini.name, mini.num_classes, mini.in_chans, mini.input_size) == (EMBEDDED, 10, 1, 32)
    assert mini.class_names[0] == "T-shirt/top" and len(mini.class_names) == 10
    for images, each in ((train, 1000), (val, 200), (test, 200)):
        assert images.pixels_BCHW.shape == (10 * each, 1, 32, 32)
        assert images.pixels_BCHW.dtype == torch.uint8 and images.labels_B.dtype == torch.int64
        assert images.pixels_BCHW.is_contiguous()
        assert images.labels_B.bincount().tolist() == [each] * 10
    assert mini.mean == pytest.approx((0.21924,), abs=1e-4)
    assert mini.std == pytest.approx((0.33265,), abs=1e-4)


def test_statistics_are_of_the_training_part_only(mini: ImageData) -> None:
    """Mean and std equal torch's over the training pixels, and not over all of them."""
    pixels = held(mini.train).pixels_BCHW.double() / 255
    assert mini.mean[0] == pytest.approx(pixels.mean().item(), abs=1e-12)
    assert mini.std[0] == pytest.approx(pixels.std(correction=0).item(), abs=1e-9)
    both = torch.cat([pixels, held(mini.val).pixels_BCHW.double() / 255])
    assert mini.mean[0] != pytest.approx(both.mean().item(), abs=1e-7)


def test_statistics_of_a_constant_channel_do_not_divide_by_zero() -> None:
    """A constant channel has a std above zero; channels are apart."""
    pixels_BCHW = torch.zeros(5, 2, 3, 3, dtype=torch.uint8)
    pixels_BCHW[:, 1] = 51
    mean, std = mean_std(pixels_BCHW)
    assert mean == pytest.approx((0.0, 0.2)) and std == (1 / 255, 1 / 255)


def test_split_is_deterministic_disjoint_and_whole(mini: ImageData) -> None:
    """The same seed parts alike, another seed otherwise; no index is lost or doubled."""
    again, other = (load(EMBEDDED, root=None, input_size=32, seed=seed) for seed in (0, 1))
    assert torch.equal(held(again.val).pixels_BCHW, held(mini.val).pixels_BCHW)
    assert not torch.equal(held(other.val).pixels_BCHW, held(mini.val).pixels_BCHW)
    labels_B = torch.cat([mini.train.labels_B, mini.val.labels_B])
    for seed in range(3):
        train_B, val_B = stratified_split(labels_B, 2345, mini.class_names, seed)
        assert torch.cat([train_B, val_B]).sort().values.tolist() == list(range(12_000))
        assert len(val_B) == 2345
        assert set(labels_B[val_B].bincount().tolist()) <= {234, 235}
    _, val_B = stratified_split(torch.arange(12_000) % 10, 2_000, mini.class_names, 0)
    assert (val_B[:4].tolist(), val_B.sum().item()) == ([4, 9, 10, 15], 12_128_410)


def test_split_of_uneven_classes_keeps_the_shares() -> None:
    """Each class gives its share to within one image, and a larger part holds the smaller one."""
    labels_B = torch.tensor([0] * 100 + [1] * 30 + [2] * 7)
    _, few_B = stratified_split(labels_B, 27, ("a", "b", "c"), 3)
    train_B, many_B = stratified_split(labels_B, 60, ("a", "b", "c"), 3)
    counts = labels_B[many_B].bincount().tolist()
    assert all(abs(c - n * 60 / 137) <= 1 for c, n in zip(counts, (100, 30, 7), strict=True))
    assert set(few_B.tolist()) <= set(many_B.tolist())
    assert train_B.tolist() == sorted(train_B.tolist())


@pytest.mark.parametrize(
    ("val_images", "part"),
    [(0, "validation"), (9, "validation"), (12_000, "training"), (-1, "validation")],
)
def test_impossible_split(val_images: int, part: str) -> None:
    """A class that would be without images in a part is named."""
    with pytest.raises(UserError, match=rf"the {part}.* none of class '.*'; choose another number"):
        load(EMBEDDED, root=None, input_size=28, val_images=val_images)


def test_val_images_sets_the_size() -> None:
    """As many validation images as asked for."""
    data = load(EMBEDDED, root=None, input_size=28, val_images=500)
    assert (len(data.train), len(data.val)) == (11_500, 500)


@pytest.mark.parametrize("poison", [Path.unlink, lambda file: file.write_bytes(b"poison")])
def test_embedded_test_files_are_read_by_test_only(
    copy: Path, monkeypatch: pytest.MonkeyPatch, poison: Callable[[Path], object]
) -> None:
    """With missing or poisoned test files, all but `test()` works and gives the same images."""
    monkeypatch.setattr(sources, "EMBEDDED_FOLDER", copy)
    sound = load(EMBEDDED, root=None, input_size=28)
    for name in FILES[2:]:
        poison(copy / name)
    for data in (load(EMBEDDED, root=None, input_size=28), load_copy(copy)):
        assert torch.equal(held(data.train).pixels_BCHW, held(sound.train).pixels_BCHW)
        assert next(batches(data.val, 8, torch.arange(8)))[0].shape == (8, 1, 28, 28)
        with pytest.raises(UserError, match="t10k-images"):
            data.test()
    with pytest.raises(UserError, match=r"t10k-images.*install twins_nas again"):
        sound.test()


def test_full_set(full_fashion: Path) -> None:
    """The whole set through a root that holds it in a folder of its name; known statistics."""
    data = load("fashion-mnist", root=full_fashion.parent, input_size=28)
    assert (len(data.train), len(data.val)) == (50_000, 10_000)
    assert data.val.labels_B.bincount().tolist() == [1000] * 10
    assert data.mean == pytest.approx((0.2860,), abs=2e-3)
    assert data.std == pytest.approx((0.3530,), abs=2e-3)


@pytest.mark.parametrize("layout", [".", "FashionMNIST/raw", "fashion-mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_idx_layouts(tmp_path: Path, mini: ImageData, layout: str, packed: bool) -> None:
    """Raw or .gz files, in the root, torchvision's layout or a folder of the name."""
    place = tmp_path / layout
    place.mkdir(parents=True, exist_ok=True)
    for name in FILES[:2]:
        raw = (EMBEDDED_FOLDER / name).read_bytes()
        target = place / (name if packed else name.removesuffix(".gz"))
        target.write_bytes(raw if packed else gzip.decompress(raw))
    data = load("fashion-mnist", root=tmp_path, input_size=32)
    assert torch.equal(held(data.train).pixels_BCHW, held(mini.train).pixels_BCHW)


def test_mnist_has_digits_as_classes(copy: Path) -> None:
    """The same files under the name mnist."""
    assert load("mnist", root=copy, input_size=28).class_names == tuple("0123456789")


# Faults of files and names.


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fashion-mnist-min", "did you mean 'fashion-mnist-mini'"),
        ("cifar", "did you mean 'cifar10'"),
        ("imagenet", ", ".join(DATA_SETS)),
        ("imagefolder:", "did you mean 'imagefolder:PATH'"),
    ],
)
def test_unknown_name(name: str, told: str) -> None:
    """Unknown names list the known ones."""
    with pytest.raises(UserError) as error:
        load(name, root=None, input_size=32)
    assert told in str(error.value) and ", ".join(DATA_SETS) in str(error.value)


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize("download", [False, True])
def test_no_root(name: str, download: bool) -> None:
    """Sets that lie outside the package need a folder."""
    with pytest.raises(UserError, match=f"{name} needs a folder: give --data-root DIR"):
        load(name, root=None, input_size=32, download=download)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("fashion-mnist", "train-images-idx3-ubyte.gz"),
        ("mnist", "train-images-idx3-ubyte.gz"),
        ("cifar10", "cifar-10-batches-py/batches.meta"),
        ("cifar100", "cifar-100-python/meta"),
    ],
)
def test_missing_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    """A missing file is named with what to do, and nothing is downloaded unasked."""
    monkeypatch.setattr(sources, "fetch", lambda *_: pytest.fail("downloaded unasked"))
    with pytest.raises(UserError) as error:
        load(name, root=tmp_path, input_size=32)
    for told in (file, "--data-root DIR", "--download", str(tmp_path)):
        assert told in str(error.value)


def cut(path: Path) -> None:
    """Half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    """A file with one wrong byte in its middle."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)


def vanish(path: Path) -> None:
    """No file, but a raw one in its place that leads nowhere."""
    path.unlink()
    path.with_suffix("").symlink_to(path.parent / "missing")


@pytest.mark.parametrize(
    ("file", "spoil", "told"),
    [
        (0, cut, "corrupt or truncated gzip"),
        (0, flip_a_bit, "corrupt or truncated gzip"),
        (0, lambda path: path.write_bytes(b"no gzip"), "corrupt or truncated gzip"),
        (0, lambda path: path.write_bytes(b""), "not an IDX file"),
        (0, lambda path: write_gz(path, (12_000,), bytes(12_000)), "begins with 00000801"),
        (1, lambda path: write_gz(path, (2,), bytes(2), magic=0x0D00), "begins with 00000d01"),
        (0, lambda path: write_gz(path, (12_000, 28, 28), bytes(9)), "holds 9 bytes of data"),
        (0, lambda path: write_gz(path, (2**32 - 1,) * 3, bytes(9)), "holds 9 bytes of data"),
        (0, lambda path: write_gz(path, (0, 28, 28), b""), "is empty"),
        (0, lambda path: write_gz(path, (1, 2, 3), bytes(6)), "images of 2 x 3; squares belong"),
        (1, lambda path: write_gz(path, (9,), bytes(9)), "12000 images but .*labels.* holds 9 lab"),
        (1, lambda path: write_gz(path, (12_000,), b"\n" * 12_000), "holds the label 10, but"),
        (1, vanish, "is not in"),
    ],
)
def test_bad_idx_file(copy: Path, file: int, spoil: Callable[[Path], None], told: str) -> None:
    """Every fault of an IDX file is one sentence that names the file."""
    spoil(copy / FILES[file])
    with pytest.raises(UserError, match=told) as error:
        load_copy(copy)
    assert FILES[file].removesuffix(".gz") in str(error.value)
    assert "squares" in str(error.value) or "--data-root DIR" in str(error.value)


def test_unreadable_idx_file(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk is a sentence too."""

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"train-images.* cannot be read \(Permission denied\)"):
        load_copy(copy)


def test_recipes_know_the_same_names() -> None:
    """The names are checked before this package is imported, from a list of their own."""
    from twins_nas import recipes
    from twins_nas.data import DATA_SETS

    assert recipes.DATA_SETS == DATA_SETS
