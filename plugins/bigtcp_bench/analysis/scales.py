"""On which scale two arms are compared, and how a difference there reads as a relative change that can be.

A ratio is compared as a logarithm. Where zero is an ordinary value, amounts are compared as square roots and
shares as the arc sine of theirs: both steady the spread, and no interval leaves the range of what was measured,
so no share falls by 102 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

#: exp() of more than this is no finite number.
_MAX_EXPONENT = 700.0


@dataclass(frozen=True)
class ModelScale:
    """The scale of a metric: ``log`` (values above 0), ``amount`` (0 and above) or ``share`` (0 to 1)."""

    kind: Literal["log", "amount", "share"]

    @property
    def ends(self) -> tuple[float, float]:
        """Return the least and the greatest that there is on this scale."""
        return {"log": (-math.inf, math.inf), "amount": (0.0, math.inf), "share": (0.0, math.pi / 2)}[self.kind]

    def of(self, values: FloatArray) -> FloatArray:
        """Return ``values`` on this scale; what noise has put outside of the range counts as its end."""
        if self.kind == "log":
            return np.log(values)
        if self.kind == "amount":
            return np.sqrt(np.maximum(values, 0.0))
        return np.arcsin(np.sqrt(np.clip(values, 0.0, 1.0)))

    def back(self, value: float) -> float:
        """Return the metric's own value of ``value`` on this scale."""
        low, high = self.ends
        held = min(max(value, low), high)
        if self.kind == "log":
            return math.exp(min(held, _MAX_EXPONENT))
        return held**2 if self.kind == "amount" else math.sin(held) ** 2

    def change(self, usual: float, difference: float, floor: float = 0.0) -> float | None:
        """Return the relative change (0.05: 5 % more) of ``usual`` by ``difference``, both on this scale.

        It is relative to ``floor`` (the metric's own value) where ``usual`` is less. None where that is zero: then
        any change is infinitely large.
        """
        if self.kind == "log":
            return math.expm1(min(difference, _MAX_EXPONENT))
        if difference == 0:
            return 0.0
        own = self.back(usual)
        base = max(own, floor)
        return self.back(usual + difference) / base - own / base if base > 0 else None

    def leaves_range(self, usual: float, difference: float) -> bool:
        """Return whether ``usual`` and ``difference`` together are beyond what there can be."""
        low, high = self.ends
        return not low < usual + difference < high

    def spread(self, usual: float, relative: float) -> float:
        """Return the standard deviation on this scale of a ``relative`` one about ``usual`` (on this scale)."""
        if self.kind == "log":
            return relative
        if self.kind == "amount":
            return relative * usual / 2
        # Of a share p: relative × p × the derivative of asin √p, which is 1 / (2 √(p (1 − p))).
        return relative * math.tan(min(usual, 1.5)) / 2
