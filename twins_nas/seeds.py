"""The published networks by name, and their micro forms for 32 px; each is data, an `ArchConfig`.

Twins: arXiv 2104.13840, tables 9 and 10, corrected by the authors' code (stage 2 of PCPVT has 4
blocks).

**Micro forms.** 32 px with patches of 2 px give grids of 16, 8, 4, 2 tokens a side: the paper's
56, 28, 14, 7 times 2/7. Windows and sub-sampled grids are scaled alike: a window of 7 becomes 2,
and the ratios 8, 4, 2, 1, which leave 7x7 keys in every stage, stay as they are and leave 2x2.
Channels and head channels are a quarter of the Small model's. Depths keep the Small model's shape,
a deep third stage, with half of its blocks or less: 2, 2, 10, 4 of Twins-SVT-S becomes 2, 2, 4, 2
(pairs of LSA and GSA stay whole), 3, 4, 6, 3 of Twins-PCPVT-S becomes 2, 2, 3, 2.
"""

from __future__ import annotations

from collections.abc import Callable

from twins_nas.arch import ArchConfig, StageConfig
from twins_nas.errors import UserError, did_you_mean

Four = tuple[int, int, int, int]


def twins_pcpvt(dims: Four, depths: Four, head_dim: int = 64, patch_size: int = 4) -> ArchConfig:
    """Twins-PCPVT: GSA in every block, a PEG in every stage."""
    stages = [
        StageConfig(
            dim, head_dim, depth, "G", (0,) * depth, (ratio,) * depth, "cpe", (mlp,) * depth
        )
        for dim, depth, ratio, mlp in zip(
            dims, depths, (8, 4, 2, 1), (8.0, 8.0, 4.0, 4.0), strict=True
        )
    ]
    return ArchConfig(tuple(stages), patch_size=patch_size)


def twins_svt(
    dims: Four,
    depths: Four,
    head_dim: int = 32,
    window: int = 7,
    patch_size: int = 4,
    window_fit: str = "pad",
) -> ArchConfig:
    """Twins-SVT: LSA and GSA in turns, a PEG in every stage."""
    stages = [
        StageConfig(
            dim, head_dim, depth, "LG", (window,) * depth, (ratio,) * depth, "cpe", (4.0,) * depth
        )
        for dim, depth, ratio in zip(dims, depths, (8, 4, 2, 1), strict=True)
    ]
    return ArchConfig(tuple(stages), patch_size=patch_size, window_fit=window_fit)


SEEDS: dict[str, Callable[[], ArchConfig]] = {
    "twins_pcpvt_small": lambda: twins_pcpvt((64, 128, 320, 512), (3, 4, 6, 3)),
    "twins_pcpvt_base": lambda: twins_pcpvt((64, 128, 320, 512), (3, 4, 18, 3)),
    "twins_pcpvt_large": lambda: twins_pcpvt((64, 128, 320, 512), (3, 8, 27, 3)),
    "twins_svt_small": lambda: twins_svt((64, 128, 256, 512), (2, 2, 10, 4)),
    "twins_svt_base": lambda: twins_svt((96, 192, 384, 768), (2, 2, 18, 2)),
    "twins_svt_large": lambda: twins_svt((128, 256, 512, 1024), (2, 2, 18, 2)),
    "twins_pcpvt_micro": lambda: twins_pcpvt(
        (16, 32, 80, 128), (2, 2, 3, 2), head_dim=16, patch_size=2
    ),
    "twins_svt_micro": lambda: twins_svt(
        (16, 32, 64, 128), (2, 2, 4, 2), head_dim=8, window=2, patch_size=2, window_fit="clamp"
    ),
}


def seed(name: str) -> ArchConfig:
    """The architecture of a name.

    Raises:
        UserError: an unknown name; lists the names.
    """
    if name not in SEEDS:
        raise UserError(
            f"no architecture is called {name!r}{did_you_mean(name, SEEDS)}"
            f" (there are: {', '.join(SEEDS)})"
        )
    return SEEDS[name]()
