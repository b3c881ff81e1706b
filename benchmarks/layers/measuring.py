"""Runs one case on both sides and says how far the results are apart."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.layers.case import Case
from benchmarks.layers.process import Died, FrameworkProcess, Refused
from stepalign.coordinator.atlas.layers.pair import LayerPair
from stepalign.coordinator.cases.case import WeightsSection
from stepalign.coordinator.sessions.naming import NameMap, match_names
from stepalign.protocol.errors import StepalignError
from stepalign.protocol.specs import ModuleSpec, TensorSpec

DTYPES = ("float32", "float64")
SMALL_GRADIENT = 0.1
"""A gradient is measured against itself, but at least against this share of the case's greatest gradient: the true
gradient of an attention's key bias is 0, and what is computed in its place is rounding.
"""
ALONE_REPEATS = 400


@dataclass(frozen=True)
class Measured:
    """One case's outcome: the greatest relative difference of each dtype, the part that shows it, or what was raised.

    A difference is relative to the greatest magnitude of torch's array; infinite where shapes or NaNs differ.
    """

    case: Case
    spelled_out: bool
    errors: Mapping[str, float]
    worst: Mapping[str, str]
    problem: str = ""

    @property
    def greatest(self) -> float:
        return math.inf if self.problem else max(self.errors.values())


class Bench:
    """Both frameworks' processes."""

    def __init__(self, torch: FrameworkProcess, paddle: FrameworkProcess) -> None:
        self.torch, self.paddle = torch, paddle

    def measure(self, pair: LayerPair, case: Case, spelled_out: bool) -> Measured:
        """Measure a case in both dtypes, paddle's arguments spelled out or left at its own defaults."""
        errors: dict[str, float] = {}
        worst: dict[str, str] = {}
        problem = ""
        for dtype in DTYPES:
            try:
                found = self._run(pair, case, dtype, spelled_out)
            except (Refused, Died) as error:
                problem = f"{dtype}: {error}"
                break
            errors[dtype] = max(found.values(), default=math.nan)
            worst[dtype] = max(found, key=lambda name: found[name], default="")
        if case.alone:
            self.paddle.close()
        return Measured(case, spelled_out, errors, worst, problem)

    def _run(self, pair: LayerPair, case: Case, dtype: str, spelled_out: bool) -> dict[str, float]:
        is_layer = pair.torch.startswith("nn.") and not pair.torch.startswith("nn.functional")
        ours = dict(case.arguments)
        theirs = {**pair.paddle_call(case.arguments, spelled_out), **case.paddle_arguments}
        names = NameMap((), ())
        weights: dict[str, dict[str, np.ndarray]] = {"torch": {}, "paddle": {}}
        if is_layer:
            built = {}
            for process, path, arguments in ((self.torch, pair.torch, ours), (self.paddle, pair.paddle, theirs)):
                try:
                    built[process.framework] = process.ask("build", path=path, arguments=arguments, dtype=dtype)
                except Refused as error:
                    raise Refused(f"{process.framework} {error}") from None
            names, weights = self._weights(built, case)
        results = {}
        for process, path, call in (
            (self.torch, pair.torch, {**case.call, **({} if is_layer else ours)}),
            (
                self.paddle,
                pair.paddle,
                {**(case.call if case.paddle_call is None else case.paddle_call), **({} if is_layer else theirs)},
            ),
        ):
            results[process.framework] = self._side(process, path, is_layer, case, dtype, call, weights)
        return _differences(results["torch"], results["paddle"], names, case)

    def _side(
        self,
        process: FrameworkProcess,
        path: str,
        is_layer: bool,
        case: Case,
        dtype: str,
        call: Mapping[str, Any],
        weights: Mapping[str, Mapping[str, np.ndarray]],
    ) -> dict[str, np.ndarray]:
        on_paddle = process.framework == "paddle"
        inputs = {**case.inputs, **(case.paddle_inputs if on_paddle else {})}
        given = {f"input/{name}": array for name, array in inputs.items()}
        given.update({f"weight/{name}": array for name, array in weights[process.framework].items()})
        process.give(given)
        trained = [name for name, array in case.inputs.items() if array.dtype.kind == "f" and name not in case.constant]
        try:
            process.ask(
                "run",
                path=path,
                layer=is_layer,
                dtype=dtype,
                mode=case.mode,
                call=dict(call),
                inputs=list(inputs),
                with_gradient=trained,
                named_inputs=dict(case.named_inputs),
                repeats=ALONE_REPEATS if case.alone else 1,
                outputs=list(case.paddle_outputs) if on_paddle else [],
                state=list(case.state),
                permute_outputs=list(case.paddle_permutation if on_paddle else case.torch_permutation),
            )
        except Refused as error:
            raise Refused(f"{process.framework} {error}") from None
        except Died as error:
            raise Died(f"{process.framework}: {error}") from None
        return process.arrays()

    def _weights(self, built: Mapping[str, Any], case: Case) -> tuple[NameMap, dict[str, dict[str, np.ndarray]]]:
        """Return numbers for torch's layer, other than an initialisation's, and the same by paddle's names."""
        tensors = {side: [_tensor_spec(each) for each in answer["tensors"]] for side, answer in built.items()}
        modules = {side: [ModuleSpec(**each) for each in answer["modules"]] for side, answer in built.items()}
        try:
            names = match_names(
                tensors["torch"],
                tensors["paddle"],
                WeightsSection(ignore=case.ignored_tensors),
                modules["torch"],
                modules["paddle"],
            )
        except StepalignError as error:
            raise Refused(f"{str(error).splitlines()[0]}") from None
        kept = self.torch.arrays()
        given = {
            spec.name: _numbers(spec, kept[spec.name])
            for spec in tensors["torch"]
            if spec.name not in case.ignored_tensors
        }
        return names, {"torch": given, "paddle": names.carry("torch", given, tensors["paddle"])}


def _tensor_spec(values: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(**{**values, "shape": tuple(values["shape"]), "aliases": tuple(values["aliases"])})


def _numbers(spec: TensorSpec, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    random = np.random.default_rng((len(spec.name), *array.shape))
    around = 1.0 if "norm" in spec.module_type.lower() and "weight" in spec.role else 0.0
    values = around + 0.3 * random.standard_normal(array.shape)
    if "var" in spec.role:
        values = random.uniform(0.5, 1.5, array.shape)
    return values.astype(array.dtype)


def _differences(
    torch: Mapping[str, np.ndarray], paddle: Mapping[str, np.ndarray], names: NameMap, case: Case
) -> dict[str, float]:
    ours, theirs = ({key: value for key, value in side.items() if "/" not in key} for side in (torch, paddle))
    for piece in names.pieces:
        for prefix in ("gradient", "buffer"):
            keys = f"{prefix}/{piece.torch.tensor}", f"{prefix}/{piece.paddle.tensor}"
            if keys[0] in torch and keys[1] in paddle:
                name = f"{prefix} of {piece.name.removeprefix('layer.')}"
                ours[name], theirs[name] = piece.torch.read(torch[keys[0]]), piece.paddle.read(paddle[keys[1]])
    if case.torch_permutation:
        ours.update(
            {
                name: array.transpose(case.torch_permutation)
                for name, array in ours.items()
                if name.startswith("gradient")
            }
        )
    wanted = [
        name for name in ours if not case.compare or any(fnmatch.fnmatchcase(name, each) for each in case.compare)
    ]
    gradients = [np.max(np.abs(ours[name]), initial=0.0) for name in wanted if name.startswith("gradient")]
    least = SMALL_GRADIENT * max((float(each) for each in gradients if np.isfinite(each)), default=0.0)
    found: dict[str, float] = {}
    for name in wanted:
        if name not in theirs:
            found[name] = math.inf
            continue
        pair = (ours[name], theirs[name])
        if case.reduce == "values":
            pair = (np.unique(np.round(pair[0], 5)), np.unique(np.round(pair[1], 5)))
        found[name] = relative(*pair, least if name.startswith("gradient") else 0.0)
    return found


def relative(torch: np.ndarray, paddle: np.ndarray, least: float = 0.0) -> float:
    """Return max |torch - paddle| / max(max |torch|, least); absolute where that is 0, infinite where NaNs differ."""
    if torch.size == paddle.size == 1:
        torch, paddle = torch.reshape(()), paddle.reshape(())
    if torch.shape != paddle.shape:
        return math.inf
    if not torch.size:
        return 0.0
    torch, paddle = torch.astype(np.float64), paddle.astype(np.float64)
    if not np.array_equal(np.isfinite(torch), np.isfinite(paddle)) or not np.array_equal(
        np.isnan(torch), np.isnan(paddle)
    ):
        return math.inf
    finite = np.isfinite(torch)
    if not np.array_equal(torch[~finite & ~np.isnan(torch)], paddle[~finite & ~np.isnan(paddle)]):
        return math.inf
    scale = max(float(np.max(np.abs(torch[finite]), initial=0.0)), least)
    return float(np.max(np.abs(torch[finite] - paddle[finite]), initial=0.0)) / (scale or 1.0)
