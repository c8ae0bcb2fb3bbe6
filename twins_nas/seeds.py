"""The published networks by name, and their micro forms for 32 px; each is data, an `ArchConfig`.

PVT: arXiv 2102.12122, table 1 (its stage 2 of Small has 4 blocks in the authors' code). CPVT: arXiv
2102.10882, DeiT (2012.12877) with PEGs in place of its position table. Twins: arXiv 2104.13840,
tables 9 and 10, corrected by the authors' code (stage 2 of PCPVT has 4 blocks). Swin: arXiv
2103.14030, section 3.3.

**Micro forms.** 32 px with patches of 2 px give grids of 16, 8, 4, 2 tokens a side: the paper's
56, 28, 14, 7 times 2/7. Windows and sub-sampled grids are scaled alike: a window of 7 becomes 2,
and the ratios 8, 4, 2, 1, which leave 7x7 keys in every stage, stay as they are and leave 2x2.
Channels and head channels are a quarter of the Small model's. Depths keep the Small model's shape,
a deep third stage, with half of its blocks or less: 2, 2, 10, 4 of Twins-SVT-S becomes 2, 2, 4, 2
(pairs of LSA and GSA stay whole), 3, 4, 6, 3 of PVT-Small and Twins-PCPVT-S becomes 2, 2, 3, 2.
Swin's micro form differs from Twins-SVT's in what the papers differ in and in nothing else: it has
the same channels (Swin-T's are 1.5 times as wide), depths and block epsilon. CPVT is one stage in
its paper; its micro form is the pyramid of PVT's with PEGs in place of the position table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twins_nas.arch import CLS, GAP, MERGE, ArchConfig, StageConfig
from twins_nas.errors import UserError, did_you_mean

RATIOS = (8, 4, 2, 1)


def pvt(
    dims: Sequence[int],
    depths: Sequence[int],
    pe: str = "ape",
    pool: str = CLS,
    head_dim: int = 64,
    patch_size: int = 4,
) -> ArchConfig:
    """PVT: GSA in every block, a position table in every stage, a class token in the last."""
    stages = [
        StageConfig(dim, head_dim, depth, "G", (0,) * depth, (ratio,) * depth, pe, (mlp,) * depth)
        for dim, depth, ratio, mlp in zip(dims, depths, RATIOS, (8.0, 8.0, 4.0, 4.0), strict=True)
    ]
    return ArchConfig(tuple(stages), patch_size=patch_size, pool=pool)


def cpvt(dim: int, pegs: int = 1, pool: str = CLS) -> ArchConfig:
    """CPVT: one stage of twelve blocks at patch 16, PEGs after the first of them."""
    stage = StageConfig(dim, 64, 12, "G", (0,) * 12, (1,) * 12, "cpe", (4.0,) * 12, pegs)
    return ArchConfig((stage,), patch_size=16, pool=pool, patch_norm=False)


def twins_pcpvt(
    dims: Sequence[int], depths: Sequence[int], head_dim: int = 64, patch_size: int = 4
) -> ArchConfig:
    """Twins-PCPVT: PVT with a PEG in every stage, and without a class token."""
    return pvt(dims, depths, "cpe", GAP, head_dim, patch_size)


def twins_svt(
    dims: Sequence[int],
    depths: Sequence[int],
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
        for dim, depth, ratio in zip(dims, depths, RATIOS, strict=True)
    ]
    return ArchConfig(tuple(stages), patch_size=patch_size, window_fit=window_fit)


def swin(
    dims: Sequence[int],
    depths: Sequence[int],
    head_dim: int = 32,
    window: int = 7,
    patch_size: int = 4,
    norm_eps: float = 1e-5,
) -> ArchConfig:
    """Swin: LSA on windows and on shifted ones in turns, RPE, merged patches between stages."""
    stages = [
        StageConfig(
            dim, head_dim, depth, "LS", (window,) * depth, (0,) * depth, "rpe", (4.0,) * depth
        )
        for dim, depth in zip(dims, depths, strict=True)
    ]
    return ArchConfig(tuple(stages), patch_size, norm_eps=norm_eps, downsample=MERGE)


PVT_DIMS = (64, 128, 320, 512)
PVT_MICRO = (16, 32, 80, 128)
SVT_MICRO = (16, 32, 64, 128)
SEEDS: dict[str, Callable[[], ArchConfig]] = {
    "pvt_tiny": lambda: pvt(PVT_DIMS, (2, 2, 2, 2)),
    "pvt_small": lambda: pvt(PVT_DIMS, (3, 4, 6, 3)),
    "pvt_medium": lambda: pvt(PVT_DIMS, (3, 4, 18, 3)),
    "pvt_large": lambda: pvt(PVT_DIMS, (3, 8, 27, 3)),
    "cpvt_tiny": lambda: cpvt(192),
    "cpvt_small": lambda: cpvt(384),
    "cpvt_base": lambda: cpvt(768),
    "cpvt_tiny_5peg": lambda: cpvt(192, 5),
    "cpvt_small_5peg": lambda: cpvt(384, 5),
    "cpvt_base_5peg": lambda: cpvt(768, 5),
    "cpvt_tiny_gap": lambda: cpvt(192, 5, GAP),
    "cpvt_small_gap": lambda: cpvt(384, 5, GAP),
    "cpvt_base_gap": lambda: cpvt(768, 5, GAP),
    "twins_pcpvt_small": lambda: twins_pcpvt(PVT_DIMS, (3, 4, 6, 3)),
    "twins_pcpvt_base": lambda: twins_pcpvt(PVT_DIMS, (3, 4, 18, 3)),
    "twins_pcpvt_large": lambda: twins_pcpvt(PVT_DIMS, (3, 8, 27, 3)),
    "twins_svt_small": lambda: twins_svt((64, 128, 256, 512), (2, 2, 10, 4)),
    "twins_svt_base": lambda: twins_svt((96, 192, 384, 768), (2, 2, 18, 2)),
    "twins_svt_large": lambda: twins_svt((128, 256, 512, 1024), (2, 2, 18, 2)),
    "swin_tiny": lambda: swin((96, 192, 384, 768), (2, 2, 6, 2)),
    "swin_small": lambda: swin((96, 192, 384, 768), (2, 2, 18, 2)),
    "swin_base": lambda: swin((128, 256, 512, 1024), (2, 2, 18, 2)),
    "pvt_micro": lambda: pvt(PVT_MICRO, (2, 2, 3, 2), head_dim=16, patch_size=2),
    "cpvt_micro": lambda: pvt(PVT_MICRO, (2, 2, 3, 2), "cpe", head_dim=16, patch_size=2),
    "twins_pcpvt_micro": lambda: twins_pcpvt(PVT_MICRO, (2, 2, 3, 2), head_dim=16, patch_size=2),
    "twins_svt_micro": lambda: twins_svt(
        SVT_MICRO, (2, 2, 4, 2), head_dim=8, window=2, patch_size=2, window_fit="clamp"
    ),
    "swin_micro": lambda: swin(
        SVT_MICRO, (2, 2, 4, 2), head_dim=8, window=2, patch_size=2, norm_eps=1e-6
    ),
}


def native_size(name: str) -> int:
    """The side, in pixels, of the images that a seed is made for."""
    return 32 if name.endswith("_micro") else 224


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
