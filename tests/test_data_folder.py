"""Images in class folders, held in memory or streamed."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from twins_nas.data import (
    EMBEDDED,
    FolderImages,
    ImageData,
    Images,
    batches,
    epoch_order,
    folder,
    load,
)
from twins_nas.errors import UserError


@pytest.fixture(scope="module")
def mini() -> ImageData:
    """The embedded set at 32 px."""
    return load(EMBEDDED, root=None, input_size=32)


@pytest.fixture
def tree(tmp_path: Path, mini: ImageData) -> Callable[..., Path]:
    """Writes class folders of PNG: `tree("train", bags=6)` puts six images in train/bags."""

    def write(part: str = ".", **counts: int) -> Path:
        for label, (name, count) in enumerate(counts.items()):
            place = tmp_path / "folder" / part / name
            place.mkdir(parents=True)
            for number, at in enumerate((mini.train.labels_B == label).nonzero()[:count, 0]):
                pixels_CHW = mini.train.batch(at[None])[0][0]
                Image.fromarray(pixels_CHW[0].numpy()).save(place / f"{number}.png")
        return tmp_path / "folder"

    return write


def load_folder(place: Path, **options: Any) -> ImageData:
    """Class folders at 28 px."""
    return load(f"imagefolder:{place}", root=None, input_size=28, **options)


def held(images: object) -> Images:
    """The images, which must be in memory."""
    assert isinstance(images, Images)
    return images


def test_folder_with_train_and_val(tree: Callable[..., Path], mini: ImageData) -> None:
    """train/ is parted, val/ is the test part; the pixels are those of the files, as RGB."""
    tree("train", shirts=12, trousers=12)
    place = tree("val", shirts=3, trousers=2)
    data = load(f"imagefolder:{place}", root=None, input_size=32, val_images=4)
    assert (len(data.train), len(data.val), len(data.test())) == (20, 4, 5)
    assert (data.class_names, data.in_chans) == (("shirts", "trousers"), 3)
    assert data.val.labels_B.tolist() == [0, 0, 1, 1]
    pixels_BCHW = held(data.test()).pixels_BCHW
    assert torch.equal(pixels_BCHW[0, 0], pixels_BCHW[0, 2])
    first = (mini.train.labels_B == 0).nonzero()[0]
    assert torch.equal(pixels_BCHW[0, :1], mini.train.batch(first)[0][0])


def test_folder_prefers_test_with_classes_to_val(tree: Callable[..., Path]) -> None:
    """test/ is the test part where it has class folders; ImageNet's has none, so val/ is."""
    tree("train", a=12, b=12)
    tree("val", a=2, b=2)
    place = tree("test", a=3, b=3)
    assert len(load_folder(place).test()) == 6
    for name in ("a", "b"):
        shutil.rmtree(place / "test" / name)
    assert len(load_folder(place).test()) == 4


def test_folder_without_parts_holds_a_sixth_out(tree: Callable[..., Path]) -> None:
    """A sixth of each class, the same at every call, apart from what is trained on."""
    place = tree(a=60, b=31)
    source = folder.FolderSource(place)
    train, test = source.train(28), held(source.test(28))
    assert test.labels_B.bincount().tolist() == [10, 5]
    assert train.labels_B.bincount().tolist() == [50, 26]
    kept = source._list(place, "test", 28).paths
    assert not set(kept) & set(train.paths)
    assert source._list(place, "test", 28).paths == kept
    assert [path.stem for path in kept][:10] != [str(number) for number in range(10)]


@pytest.mark.parametrize("flat", [True, False])
def test_folder_test_images_are_decoded_by_test_only(tree: Callable[..., Path], flat: bool) -> None:
    """With every test image poisoned, all but `test()` works."""
    if flat:
        place = tree(a=12, b=12)
        bad = folder.FolderSource(place)._list(place, "test", 28).paths
    else:
        tree("train", a=12, b=12)
        place = tree("test", a=2, b=2)
        bad = tuple((place / "test").rglob("*.png"))
    for path in bad:
        path.write_bytes(b"poison")
    data = load_folder(place)
    assert len(bad) == 4 and len(data.train) + len(data.val) == (20 if flat else 24)
    with pytest.raises(UserError, match=r"\.png is no readable image .*; replace or remove it"):
        data.test()


def test_decode_resizes_the_shorter_side_and_crops_the_centre(tmp_path: Path) -> None:
    """A wide picture keeps its middle; grey, palette and alpha become RGB."""
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = (10, 200, 30)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    pixels = folder.decode(tmp_path / "wide.png", 10)
    assert pixels.shape == (10, 10, 3) and (pixels[:, 2:-2] == (10, 200, 30)).all()
    for mode in ("L", "P", "RGBA", "1", "CMYK"):
        path = tmp_path / f"{mode}.tiff"
        Image.fromarray(wide).convert(mode).save(path)
        assert folder.decode(path, 20).shape == (20, 20, 3)


def test_decode_of_a_large_jpeg_is_near_the_exact_one(tmp_path: Path) -> None:
    """The coarser decoding of a JPEG changes little."""
    ramp = np.linspace(0, 255, 640).astype(np.uint8)
    picture = np.stack(np.broadcast_arrays(ramp[:480, None], ramp[None], ramp[:480, None]), axis=-1)
    Image.fromarray(picture).save(tmp_path / "large.jpg", quality=95)
    Image.fromarray(picture).save(tmp_path / "large.png")
    files = (tmp_path / "large.jpg", tmp_path / "large.png")
    near, exact = (folder.decode(file, 64).astype(int) for file in files)
    assert abs(near - exact).mean() < 2


def test_unreadable_images(tmp_path: Path, tree: Callable[..., Path]) -> None:
    """Truncated, empty, foreign and 16-bit files: one sentence each."""
    sound = tree(a=1) / "a" / "0.png"
    spoilt = {
        "cut.png": sound.read_bytes()[:100],
        "empty.png": b"",
        "text.jpg": b"this is text",
    }
    for name, raw in spoilt.items():
        (tmp_path / name).write_bytes(raw)
    Image.fromarray(np.zeros((9, 9), dtype=np.uint16)).save(tmp_path / "deep.png")
    for name in [*spoilt, "deep.png", "missing.png"]:
        with pytest.raises(UserError, match=f"{name} is no readable image"):
            folder.decode(tmp_path / name, 8)
    with pytest.raises(UserError, match="not of 8 bits"):
        folder.decode(tmp_path / "deep.png", 8)


def test_folder_faults(tree: Callable[..., Path], tmp_path: Path) -> None:
    """Every fault of a layout is one sentence with the folder and what to do."""
    with pytest.raises(UserError, match=r"nowhere is no folder; give imagefolder:PATH"):
        load_folder(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="bare holds 0 class folders; give imagefolder:PATH"):
        load_folder(tmp_path / "bare")
    place = tree("train", a=12, b=12)
    with pytest.raises(UserError, match="neither test/ nor val/; add one, or give imagefolder:"):
        load_folder(place)
    assert len(load_folder(place / "train").test()) == 4
    (place / "test" / "aa").mkdir(parents=True)
    data = load_folder(place)
    with pytest.raises(UserError, match=r"aa is a class that .*train lacks; did you mean|lacks"):
        data.test()
    (place / "test" / "aa").rename(place / "test" / "a")
    with pytest.raises(UserError, match=r"a holds no image file \(.bmp.*; add some, or remove"):
        data.test()
    (place / "test" / "a").rmdir()
    with pytest.raises(UserError, match="test holds no class folders"):
        data.test()
    (place / "test").rmdir()
    with pytest.raises(UserError, match="neither test/ nor val/"):
        data.test()
    (place / "train").rename(place / "val")
    with pytest.raises(UserError, match="folder has val/ but no train/; add it"):
        load_folder(place)


def test_folder_faults_of_classes(tree: Callable[..., Path]) -> None:
    """Empty classes, lonely images and folders that cannot be listed."""
    place = tree(a=12, b=12)
    (place / ".hidden").mkdir()
    (place / "notes.txt").write_text("not a class")
    assert load_folder(place).class_names == ("a", "b")
    (place / "empty").mkdir()
    (place / "empty" / "notes.txt").write_text("not an image")
    with pytest.raises(UserError, match=r"empty holds no image file"):
        load_folder(place)
    shutil.copy(place / "a" / "0.png", place / "empty")
    with pytest.raises(UserError, match="empty holds one image; two are needed"):
        load_folder(place)
    with pytest.raises(UserError, match="cannot be listed"):
        folder._entries(place / "notes.txt")


def test_large_folder_is_streamed(
    tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit, images are decoded by the batch: the same pixels, labels and statistics."""
    place = tree(a=24, b=24)
    small = load_folder(place)
    monkeypatch.setattr(folder, "HELD_BYTES", 1000)
    large = load_folder(place)
    for part in ("train", "val"):
        whole, stream = held(getattr(small, part)), getattr(large, part)
        assert isinstance(stream, FolderImages) and stream.share_memory() is stream
        order_B = epoch_order(len(whole), 0, 0)
        for size in (1, 3, len(whole)):
            pairs = zip(batches(whole, size, order_B), batches(stream, size, order_B), strict=True)
            for (pixels, labels), (pixels_too, labels_too) in pairs:
                assert torch.equal(pixels, pixels_too) and torch.equal(labels, labels_too)
                assert pixels_too.is_contiguous()
    assert (large.mean, large.std, large.in_chans) == (small.mean, small.std, 3)
    assert isinstance(large.test(), FolderImages)
    assert list(batches(large.val, 2, torch.arange(4), start=2)) == []


def test_stream_can_be_left_and_sent(
    tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abandoned iterator ends its thread; streamed data can be pickled to another process."""
    monkeypatch.setattr(folder, "HELD_BYTES", 1000)
    data = load_folder(tree(a=24, b=24))
    steps = batches(data.train, 4, epoch_order(len(data.train), 0, 0))
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(data))
    index_B = torch.tensor([3, 1])
    assert torch.equal(again.train.batch(index_B)[0], data.train.batch(index_B)[0])
    assert len(again.test()) == len(data.test())


def test_stream_names_the_bad_file(
    tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that goes bad in the middle of an epoch ends it with the sentence."""
    monkeypatch.setattr(folder, "HELD_BYTES", 1000)
    data = load_folder(tree(a=24, b=24))
    assert isinstance(data.train, FolderImages) and data.train.paths[9].is_absolute()
    data.train.paths[9].write_bytes(b"poison")
    with pytest.raises(UserError, match="is no readable image"):
        list(batches(data.train, 4, torch.arange(len(data.train))))
