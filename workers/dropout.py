"""Masks that both sides draw alike, so that training with dropout can be compared. Imports no framework.

A mask depends on the seed, the step, the place and how many masks were drawn at that place in this step before: SHA-256
of these keys the counter-based generator Philox, whose raw 32-bit words keep an element where they are at least
``rate * 2**32``. Words and elements correspond in C order, so that masks over [B * H, L, S] and [B, H, L, S] are one
mask. A *place* is the name that the coordinator gave to the innermost module that is running, or to the nearest module
around it that has a name: the same on both sides, whatever their modules are called.
"""

from __future__ import annotations

import hashlib
from typing import Dict, List, Mapping, Tuple

import numpy as np

from stepalign.protocol.errors import CaseError

Shape = Tuple[int, ...]

_ALPHA = -1.6732632423543772 * 1.0507009873554805
"""What alpha dropout puts in place of a dropped element: SELU's value at minus infinity."""


class SharedMasks:
    """The masks of one worker. ``drawn`` lists this step's: ``place#call`` -> its rate and its shape."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._step = 0
        self._phase = ""
        self._places: Mapping[str, str] = {}
        self._running: List[str] = []
        self._counts: Dict[str, int] = {}
        self.drawn: Dict[str, Tuple[float, ...]] = {}

    def name_places(self, places: Mapping[str, str]) -> None:
        """Take the names of places by module path; a module without a name has that of the nearest one around it."""
        self._places = dict(places)

    def begin_step(self, step: int) -> None:
        """Forget the masks of the step before."""
        self._step = step
        self._running.clear()
        self._counts.clear()
        self.drawn = {}

    def enter_phase(self, phase: str) -> None:
        """Know what part of the step is running: no mask is drawn in backward."""
        self._phase = phase

    def enter_module(self, path: str) -> None:
        """Know that a module's forward begins."""
        self._running.append(path)

    def leave_module(self) -> None:
        """Know that the forward of the module that was entered last has ended."""
        self._running.pop()

    @property
    def module(self) -> str:
        """The path of the innermost module that is running; empty for the model itself and outside it."""
        return self._running[-1] if self._running else ""

    def keep(self, shape: Shape, rate: float) -> np.ndarray:
        """Draw the next mask at the current place: bool of ``shape``, True with probability 1 - ``rate``.

        Raises CaseError in backward: recomputed activations would be dropped elsewhere than in forward.
        """
        if self._phase == "backward":
            raise CaseError(
                f"{self.describe()} computes its dropout again in backward (activation recomputation), which shared masks "
                'cannot follow: turn recomputation off, or use mode = "eval"'
            )
        place = self._place()
        call = self._counts[place] = self._counts.get(place, -1) + 1
        self.drawn[f"{place}#{call}"] = (float(rate), *(float(length) for length in shape))
        key = hashlib.sha256(f"{self._seed}|{self._step}|{place}|{call}".encode()).digest()
        count = int(np.prod(shape, dtype=np.int64))
        words = np.random.Philox(key=int.from_bytes(key[:16], "little")).random_raw((count + 1) // 2)
        threshold = np.uint64(round(float(rate) * 2**32))
        return np.asarray(words.astype("<u8").view("<u4")[:count] >= threshold).reshape(shape)

    def factors(self, shape: Shape, rate: float, upscale: bool = True) -> np.ndarray:
        """Draw what dropout multiplies by, float64: 0, or 1 / (1 - rate) where kept (1 without ``upscale``)."""
        kept = self.keep(shape, rate).astype(np.float64)
        return kept / (1.0 - rate) if upscale and rate < 1.0 else kept

    def alpha_terms(self, shape: Shape, rate: float) -> Tuple[np.ndarray, np.ndarray]:
        """Draw what alpha dropout multiplies by and then adds, float64 (Klambauer et al. 2017, section 2)."""
        kept = self.keep(shape, rate)
        if rate >= 1.0:
            return np.zeros(shape), np.zeros(shape)
        scale = ((1.0 - rate) * (1.0 + rate * _ALPHA**2)) ** -0.5
        shift = -scale * _ALPHA * rate
        return np.where(kept, scale, 0.0), np.where(kept, shift, scale * _ALPHA + shift)

    def describe(self) -> str:
        """Name the module that is running, for a message."""
        return f"module {self.module!r}" if self.module else "the model"

    def _place(self) -> str:
        path = self.module
        while path and path not in self._places:
            path = path.rpartition(".")[0]
        return self._places.get(path, "")


def channels(shape: Shape, batched: bool) -> Shape:
    """Return the shape of a mask over whole channels: [N, C, ...] if ``batched``, else [C, ...]."""
    return tuple(length if axis <= int(batched) else 1 for axis, length in enumerate(shape))


def refusal(what: str, masks: SharedMasks) -> CaseError:
    """Return the error for a dropout whose mask cannot be given from outside."""
    return CaseError(
        f'{what} in {masks.describe()} drops elements where [compare] dropout = "shared" cannot reach: '
        'set its rate to 0 on both sides, or use mode = "eval"'
    )
