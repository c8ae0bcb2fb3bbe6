"""Where networks are trained and scored."""

from __future__ import annotations

import torch

from twins_nas.errors import UserError


def device_of(wanted: str | None) -> torch.device:
    """The device that was asked for, tried; without a wish the GPU where there is one.

    Raises:
        UserError: it cannot be used here.
    """
    wanted = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {wanted} cannot be used here ({reason}).") from error
    return device
