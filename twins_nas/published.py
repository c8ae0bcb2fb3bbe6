"""What the papers print of their networks, at 224 px on ImageNet-1K.

Sources: PVT 2102.12122 table 2; CPVT 2102.10882 table 5 and, where it prints no MACs, 2104.13840
table 1; Twins 2104.13840 table 1, and its repository's README for MACs without the products of
attention; Swin 2103.14030 table 1 (parameters of Swin-T from its repository: the paper says 29).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal

SEPARABLE = "these rows of the paper have separable PEGs; here a PEG is one depth-wise convolution"


@dataclass(frozen=True)
class Published:
    """Figures as they are printed, so that their digits are known; empty where there is none.

    `known` says why the parameters are expected to differ.
    """

    params_m: str
    macs_g: str = ""
    macs_no_attention_g: str = ""
    top1: str = ""
    known: str = ""


PUBLISHED = {
    "pvt_tiny": Published("13.2", "1.9", top1="75.1"),
    "pvt_small": Published("24.5", "3.8", top1="79.8"),
    "pvt_medium": Published("44.2", "6.7", top1="81.2"),
    "pvt_large": Published("61.4", "9.8", top1="81.7"),
    "cpvt_tiny": Published("6", top1="72.4"),
    "cpvt_small": Published("22", top1="79.9"),
    "cpvt_base": Published("86", top1="81.9"),
    "cpvt_tiny_5peg": Published("6", top1="73.4"),
    "cpvt_small_5peg": Published("23", top1="80.5", known=SEPARABLE),
    "cpvt_base_5peg": Published("88", "17.6", top1="82.3", known=SEPARABLE),
    "cpvt_tiny_gap": Published("6", top1="74.9"),
    "cpvt_small_gap": Published("23", "4.6", top1="81.5", known=SEPARABLE),
    "twins_pcpvt_small": Published("24.1", "3.8", "3.7", "81.2"),
    "twins_pcpvt_base": Published("43.8", "6.7", "6.4", "82.7"),
    "twins_pcpvt_large": Published("60.9", "9.8", "9.5", "83.1"),
    "twins_svt_small": Published("24", "2.9", "2.8", "81.7"),
    "twins_svt_base": Published("56", "8.6", "8.3", "83.2"),
    "twins_svt_large": Published("99.2", "15.1", "14.8", "83.7"),
    "swin_tiny": Published("28", "4.5", top1="81.3"),
    "swin_small": Published("50", "8.7", top1="83.0"),
    "swin_base": Published("88", "15.4", top1="83.5"),
}


def agrees(value: int, printed: str, unit: int) -> bool:
    """Whether a value, rounded or truncated to the printed digits, is the printed figure."""
    figure = Decimal(printed)
    exact = Decimal(value) / unit
    return figure in {exact.quantize(figure, how) for how in (ROUND_HALF_UP, ROUND_DOWN)}
