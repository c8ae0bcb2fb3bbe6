"""Images in memory, their augmentation, and minibatches."""

from __future__ import annotations

import pickle
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from twins_nas.data import (
    EMBEDDED,
    ImageData,
    Images,
    augment,
    batches,
    epoch_order,
    load,
    normalise,
)
from twins_nas.data.images import fit
from twins_nas.errors import UserError


@pytest.fixture(scope="module")
def mini() -> ImageData:
    """The embedded set at 32 px."""
    return load(EMBEDDED, root=None, input_size=32)


def held(images: object) -> Images:
    """The images, which must be in memory."""
    assert isinstance(images, Images)
    return images


# Images in memory.


def test_fit() -> None:
    """Up to a quarter is padded, evenly and with zeros; the rest is resized like PIL does."""
    pixels_BCHW = torch.randint(1, 256, (2, 3, 28, 28), dtype=torch.uint8)
    assert fit(pixels_BCHW, 28) is pixels_BCHW
    for size, low in ((32, 2), (33, 2), (37, 4)):
        padded = fit(pixels_BCHW, size)
        assert padded.shape == (2, 3, size, size) and padded.dtype == torch.uint8
        assert torch.equal(padded[..., low : low + 28, low : low + 28], pixels_BCHW)
        assert padded.sum() == pixels_BCHW.sum()
    for size in (14, 38, 64):
        resized = fit(pixels_BCHW, size)
        assert resized.shape == (2, 3, size, size) and resized.is_contiguous()
        image = Image.fromarray(pixels_BCHW[0].permute(1, 2, 0).numpy())
        exact = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
        assert abs(resized[0].permute(1, 2, 0).numpy().astype(int) - exact).max() <= 1


def test_images_are_shared_without_a_copy(mini: ImageData) -> None:
    """Arrays over the same memory both ways, read-only ones without a warning."""
    images = held(mini.val).subset(torch.arange(10))
    pixels, labels = images.numpy()
    assert pixels.ctypes.data == images.pixels_BCHW.data_ptr()
    pixels.flags.writeable = labels.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = Images.from_numpy(pixels, labels)
    assert back.pixels_BCHW.data_ptr() == images.pixels_BCHW.data_ptr()
    shared = images.share_memory()
    assert shared is images
    for tensor in (shared.pixels_BCHW, shared.labels_B):
        assert tensor.untyped_storage().is_shared()
    assert torch.equal(shared.batch(torch.tensor([4]))[0], mini.val.batch(torch.tensor([4]))[0])
    assert len(images.to("cpu")) == 10


def test_data_can_be_sent_to_another_process(mini: ImageData) -> None:
    """A pickled data set reads its test part there."""
    small = load(EMBEDDED, root=None, input_size=14)
    again = pickle.loads(pickle.dumps(small))
    assert torch.equal(held(again.val).pixels_BCHW, held(small.val).pixels_BCHW)
    assert len(again.test()) == 2_000 and again.class_names == mini.class_names


# Augmentation.


def crops(pixels_CHW: Tensor, pad: int) -> list[Tensor]:
    """Every crop of one zero-padded image, cut out slowly: unmirrored ones first."""
    channels, height, width = pixels_CHW.shape
    padded = torch.zeros(channels, height + 2 * pad, width + 2 * pad, dtype=torch.uint8)
    padded[:, pad : pad + height, pad : pad + width] = pixels_CHW
    steps = range(2 * pad + 1)
    cut_out = [padded[:, y : y + height, x : x + width] for y in steps for x in steps]
    return cut_out + [crop.flip(2) for crop in cut_out]


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (2, 6, 10)])
def test_augment_gives_each_crop_alike(shape: tuple[int, int, int], device: str) -> None:
    """Every image becomes one of its crops, whole; all crops and mirrorings are equally likely."""
    generator = torch.Generator().manual_seed(0)
    image_CHW = torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)
    many_BCHW = image_CHW.expand(1800, *shape).contiguous().to(device)
    found_BCHW = augment(many_BCHW, generator, pad=1).cpu()
    hits = torch.stack([(found_BCHW == c).all(3).all(2).all(1) for c in crops(image_CHW, 1)])
    assert hits.sum(0).tolist() == [1] * 1800
    expected, counts = 1800 / 18, hits.sum(1)
    assert ((counts - expected) ** 2 / expected).sum() < 45  # chi-squared, 17 degrees: p = 2e-4
    assert found_BCHW.dtype == torch.uint8 and found_BCHW.is_contiguous()


@pytest.mark.parametrize("flip", [True, False])
def test_augment_of_different_images(mini: ImageData, flip: bool) -> None:
    """Each image of a batch is a crop of itself, mirrored only where asked for; 4 px at 32."""
    pixels_BCHW, _ = mini.train.batch(torch.arange(40))
    found_BCHW = augment(pixels_BCHW, torch.Generator().manual_seed(1), flip=flip)
    mirrored = 0
    for before, after in zip(pixels_BCHW, found_BCHW, strict=True):
        equal = [torch.equal(after, crop) for crop in crops(before, 4)]
        assert any(equal)
        mirrored += not any(equal[: len(equal) // 2])
    assert 8 < mirrored < 32 if flip else mirrored == 0


def test_augment_is_random_by_its_generator_only(mini: ImageData) -> None:
    """Equal generators give equal crops, torch's own state is neither used nor moved."""
    pixels_BCHW, _ = mini.train.batch(torch.arange(64))
    before, kept = torch.get_rng_state(), pixels_BCHW.clone()
    first, again = (augment(pixels_BCHW, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(pixels_BCHW, kept)
    assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(5)
    assert not torch.equal(augment(pixels_BCHW, generator), augment(pixels_BCHW, generator))
    still = augment(pixels_BCHW, generator, pad=0, flip=False)
    assert torch.equal(still, pixels_BCHW)


def test_augment_is_fast(mini: ImageData) -> None:
    """Far below a step of any network: 0.5 ms of processor time; the bound is loose."""
    pixels_BCHW = mini.train.batch(torch.arange(128))[0].repeat(1, 3, 1, 1)
    generator = torch.Generator().manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        spans = []
        for _ in range(30):
            start = time.thread_time()
            augment(pixels_BCHW, generator)
            spans.append(time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert min(spans) < 5e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise(channels: int) -> None:
    """The textbook formula, channel by channel, in float32."""
    pixels_BCHW = torch.arange(4 * channels * 64).reshape(4, channels, 8, 8).to(torch.uint8)
    mean, std = (0.1, 0.4, 0.7)[:channels], (0.2, 0.3, 0.25)[:channels]
    found = normalise(pixels_BCHW, mean, std)
    for channel in range(channels):
        exact = (pixels_BCHW[:, channel].double() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(found[:, channel].double(), exact, atol=1e-6, rtol=1e-6)
    assert found.dtype == torch.float32 and pixels_BCHW.dtype == torch.uint8


def test_normalised_training_part_has_mean_0_and_std_1(mini: ImageData) -> None:
    """What the statistics are for."""
    found = normalise(held(mini.train).pixels_BCHW, mini.mean, mini.std).double()
    assert abs(found.mean().item()) < 1e-5 and abs(found.std().item() - 1) < 1e-4


# Order and minibatches.


def test_epoch_order() -> None:
    """A permutation that the three arguments determine, each of them."""
    order_B = epoch_order(1000, 3, 7)
    assert order_B.dtype == torch.int64 and order_B.sort().values.tolist() == list(range(1000))
    torch.manual_seed(9)
    assert torch.equal(epoch_order(1000, 3, 7), order_B)
    for other in (epoch_order(1000, 3, 8), epoch_order(1000, 4, 7), epoch_order(1000, 7, 3)):
        assert not torch.equal(other, order_B)
    assert epoch_order(8, 0, 0).tolist() == [2, 4, 3, 6, 5, 0, 1, 7]


@pytest.mark.parametrize("drop_last", [True, False])
def test_batches_resume_at_any_step(mini: ImageData, drop_last: bool) -> None:
    """From step k on, the minibatches are those of the whole epoch from step k on."""
    order_B = epoch_order(len(mini.val), 0, 1)[:100]
    whole = list(batches(mini.val, 32, order_B, drop_last=drop_last))
    assert [len(labels) for _, labels in whole] == [32] * 3 + [4] * (not drop_last)
    for start in range(6):
        rest = list(batches(mini.val, 32, order_B, start, drop_last))
        assert len(rest) == max(len(whole) - start, 0)
        for (pixels, labels), (pixels_too, labels_too) in zip(rest, whole[start:], strict=True):
            assert torch.equal(pixels, pixels_too) and torch.equal(labels, labels_too)
    labels_B = torch.cat([labels for _, labels in whole])
    assert torch.equal(labels_B, mini.val.labels_B[order_B[: len(labels_B)]])


def test_batch_larger_than_the_images(mini: ImageData) -> None:
    """Nothing to train on is a fault of the batch size; for evaluation it is one small batch."""
    with pytest.raises(UserError, match="minibatch of 64 is more than the 50 images there are"):
        next(batches(mini.val, 64, torch.arange(50)))
    assert len(next(batches(mini.val, 64, torch.arange(50), drop_last=False))[1]) == 50
