"""From uint8 pixels to what a network sees, on whole batches and on any device.

Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def normalise(pixels_BCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """float32 `(pixels / 255 - mean) / std`, a mean and a std for every channel."""
    mean_C11 = torch.tensor(mean, device=pixels_BCHW.device).mul_(255).view(-1, 1, 1)
    std_C11 = torch.tensor(std, device=pixels_BCHW.device).mul_(255).view(-1, 1, 1)
    return pixels_BCHW.float().sub_(mean_C11).div_(std_C11)


def augment(
    pixels_BCHW: Tensor, generator: torch.Generator, pad: int | None = None, flip: bool = True
) -> Tensor:
    """Random crops of the zero-padded images, each mirrored left to right by chance.

    Each image gets its own offset and coin, drawn on the generator's device: a CPU generator gives
    the same crops on every device.

    Args:
        pixels_BCHW: uint8 pixels, before `normalise`, so that the padding is black.
        generator: the only source of randomness.
        pad: pixels added on every side; by default an eighth of the width, 4 at 32.
        flip: whether to mirror half of the images.

    Returns:
        Pixels of the same shape and type.
    """
    batch, channels, height, width = pixels_BCHW.shape
    pad = width // 8 if pad is None else pad
    device = pixels_BCHW.device

    def draw(choices: int) -> Tensor:
        shape, own = (batch, 1), generator.device
        return torch.randint(choices, shape, generator=generator, device=own).to(device)

    rows_BH = draw(2 * pad + 1) + torch.arange(height, device=device)
    columns_BW = draw(2 * pad + 1) + torch.arange(width, device=device)
    if flip:
        columns_BW = torch.where(draw(2) == 1, columns_BW.flip(1), columns_BW)
    places_BHW = rows_BH[:, :, None] * (width + 2 * pad) + columns_BW[:, None, :]
    places_BCN = places_BHW.view(batch, 1, -1).expand(-1, channels, -1)
    padded_BCN = F.pad(pixels_BCHW, (pad, pad, pad, pad)).flatten(2)
    return padded_BCN.gather(2, places_BCN).view(pixels_BCHW.shape)
