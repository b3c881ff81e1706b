"""Which tensor of torch is which tensor of paddle: names, layouts, fused and split weights, nothing by guess.

Everything is compared in *canonical* terms: torch's name and torch's layout. A `Piece` is the largest part that is one
block on both sides: usually a whole tensor; for torch's fused attention projection against paddle's split one, a third
of it.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from stepalign.coordinator.cases.case import WeightsSection
from stepalign.protocol.errors import CaseError
from stepalign.protocol.specs import ModuleSpec, TensorSpec

Arrays = Dict[str, np.ndarray]


@dataclass(frozen=True)
class Slot:
    """Where a piece lies on one side: a tensor, its rows (None: all), and whether it is stored transposed."""

    tensor: str
    rows: Optional[Tuple[int, int]] = None
    transposed: bool = False

    def read(self, array: np.ndarray) -> np.ndarray:
        """Return the piece, in canonical layout, of this side's ``array``."""
        part = array if self.rows is None else array[self.rows[0] : self.rows[1]]
        return part.T if self.transposed else part

    def write(self, array: np.ndarray, piece: np.ndarray) -> None:
        """Put a canonical ``piece`` into this side's ``array``, in place."""
        stored = piece.T if self.transposed else piece
        if self.rows is None:
            array[...] = stored
        else:
            array[self.rows[0] : self.rows[1]] = stored


@dataclass(frozen=True)
class Piece:
    """One block that both sides have. ``name`` is canonical; ``kind`` is ``parameter`` or ``buffer``."""

    name: str
    kind: str
    torch: Slot
    paddle: Slot
    shape: Tuple[int, ...]

    def slot(self, side: str) -> Slot:
        """Return where the piece lies on ``side``."""
        return self.torch if side == "torch" else self.paddle


@dataclass(frozen=True)
class NameMap:
    """All pieces in torch's order, the pairs of modules, and where the sides tie weights differently."""

    pieces: Tuple[Piece, ...]
    modules: Tuple[Tuple[str, str], ...]
    untied: Tuple[str, ...] = ()

    def canonical(self, side: str, arrays: Mapping[str, np.ndarray], kind: Optional[str] = None) -> Arrays:
        """Return ``side``'s named ``arrays`` as pieces; one that is absent there is absent here."""
        return {
            piece.name: piece.slot(side).read(arrays[piece.slot(side).tensor])
            for piece in (self.pieces if arrays else ())
            if piece.slot(side).tensor in arrays and (kind is None or piece.kind == kind)
        }

    def carry(
        self,
        source: str,
        arrays: Mapping[str, np.ndarray],
        target: Sequence[TensorSpec],
        zeros: Callable[[Tuple[int, ...], str], np.ndarray] = np.zeros,
    ) -> Arrays:
        """Return the ``target`` side's tensors (its names, layout and dtypes) made of the ``source`` side's
        ``arrays``, in what ``zeros`` gives.
        """
        other = "paddle" if source == "torch" else "torch"
        specs = {spec.name: spec for spec in target}
        result: Arrays = {}
        for piece in self.pieces:
            name = piece.slot(other).tensor
            spec = specs[name]
            if name not in result:
                result[name] = zeros(spec.shape, spec.dtype)
            piece.slot(other).write(result[name], piece.slot(source).read(arrays[piece.slot(source).tensor]))
        return result

    def paddle_name(self, canonical: str) -> str:
        """Return the paddle tensor's name that belongs to a canonical name."""
        return self._by_name().get(canonical, canonical)

    def _by_name(self) -> Dict[str, str]:
        return {piece.name: piece.paddle.tensor for piece in self.pieces}


@dataclass(frozen=True)
class _Candidate:
    """A torch tensor, or a part of a fused one, under the names it may have on the paddle side."""

    name: str
    names: Tuple[str, ...]
    rows: Optional[Tuple[int, int]]
    shape: Tuple[int, ...]


def match_names(
    torch: Sequence[TensorSpec],
    paddle: Sequence[TensorSpec],
    weights: WeightsSection,
    torch_modules: Sequence[ModuleSpec] = (),
    paddle_modules: Sequence[ModuleSpec] = (),
) -> NameMap:
    """Return the map between the two sides. Raises CaseError listing every tensor that is left over, with the nearest
    names.
    """
    torch = [spec for spec in torch if not _is_ignored(spec, weights) and spec.role != "num_batches_tracked"]
    paddle = [spec for spec in paddle if not _is_ignored(spec, weights) and spec.role != "num_batches_tracked"]
    index = {name: spec for spec in paddle for name in (*spec.aliases, spec.name)}
    index.update({spec.name: spec for spec in paddle})
    _check_renamed_apart(torch, index, weights)
    pieces: List[Piece] = []
    untied: List[str] = []
    unmatched: List[TensorSpec] = []
    for spec in torch:
        found = _match_tensor(spec, index, weights)
        if not found:
            unmatched.append(spec)
        pieces.extend(found)
        if len({piece.paddle.tensor for piece in found}) > 1 and all(piece.torch.rows is None for piece in found):
            untied.append(spec.name)
    taken = [piece.paddle.tensor for piece in pieces]
    missing = [spec for spec in paddle if spec.name not in taken]
    if unmatched or missing:
        raise CaseError(_left_over(unmatched, missing, weights))
    seen: Dict[str, Piece] = {}
    for piece in pieces:
        earlier = seen.setdefault(piece.paddle.tensor, piece)
        if earlier is not piece and piece.paddle.rows is None:
            untied.append(piece.name)
    return NameMap(
        tuple(pieces),
        match_modules(torch, paddle, pieces, weights, torch_modules, paddle_modules),
        tuple(dict.fromkeys(untied)),
    )


def unused_patterns(torch: Sequence[TensorSpec], paddle: Sequence[TensorSpec], weights: WeightsSection) -> List[str]:
    """Return a warning for each entry of ``ignore`` and ``transpose`` that fits no tensor: usually a misspelt name."""
    ours = {spec.name for spec in torch} | {f"{spec.module}.{part}" for spec in torch for part in _ATTENTION_PARTS}
    names = {"ignore": ours | {spec.name for spec in paddle}, "transpose": ours}
    return [
        f"[weights] {key}: {pattern!r} fits no tensor; is it misspelt?"
        for key in names
        for pattern in getattr(weights, key)
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names[key])
    ]


_ATTENTION_PARTS = tuple(f"{which}_proj.{leaf}" for which in "qkv" for leaf in ("weight", "bias"))


def rename(name: str, rules: Iterable[Tuple[str, str]]) -> str:
    """Apply the rename rules, in order, to a torch name. Raises CaseError for a replacement that is none."""
    for pattern, replacement in rules:
        try:
            name = re.sub(pattern, replacement, name)
        except (re.error, IndexError) as error:
            raise CaseError(
                f"weights.rename: {pattern!r} cannot be replaced by {replacement!r}: {error}; "
                "a group is written \\\\1 and has to be in the pattern"
            ) from None
    return name


def _check_renamed_apart(torch: Sequence[TensorSpec], index: Mapping[str, TensorSpec], weights: WeightsSection) -> None:
    owners: Dict[str, str] = {}
    for spec in torch:
        for name in (spec.name, *spec.aliases):
            renamed = rename(name, weights.rename)
            if renamed in index and owners.setdefault(renamed, spec.name) != spec.name:
                raise CaseError(
                    f"weights.rename gives torch's {owners[renamed]} and {spec.name} the same name {renamed}: "
                    "make the patterns more exact"
                )


def _is_ignored(spec: TensorSpec, weights: WeightsSection) -> bool:
    return any(fnmatch.fnmatchcase(spec.name, pattern) for pattern in weights.ignore)


def _match_tensor(spec: TensorSpec, index: Mapping[str, TensorSpec], weights: WeightsSection) -> List[Piece]:
    whole = tuple(dict.fromkeys(rename(name, weights.rename) for name in (spec.name, *spec.aliases)))
    targets = {index[name].name: index[name] for name in whole if name in index}
    if targets:
        names = list(targets)
        return [
            _piece(
                spec,
                target,
                _Candidate(spec.name if target.name == names[0] else target.name, whole, None, spec.shape),
                weights,
            )
            for target in targets.values()
        ]
    parts = [(candidate, _find(candidate.names, index)) for candidate in _split(spec, weights)]
    if not parts or any(target is None for _, target in parts):
        return []
    return [_piece(spec, target, candidate, weights) for candidate, target in parts if target is not None]


def _find(names: Iterable[str], index: Mapping[str, TensorSpec]) -> Optional[TensorSpec]:
    return next((index[name] for name in names if name in index), None)


def _split(spec: TensorSpec, weights: WeightsSection) -> List[_Candidate]:
    """Return the thirds of torch's fused attention projection, by the names that paddle gives them."""
    prefix = spec.module + "." if spec.module else ""
    if spec.module_type != "MultiheadAttention":
        return []
    if spec.role.startswith("in_proj_"):
        leaf, width = spec.role[len("in_proj_") :], spec.shape[0] // 3
        return [
            _part(
                prefix,
                f"{which}_proj.{leaf}",
                (number * width, (number + 1) * width),
                (width, *spec.shape[1:]),
                weights,
            )
            for number, which in enumerate("qkv")
        ]
    match = re.fullmatch(r"([qkv])_proj_weight", spec.role)
    if match:
        candidate = _part(prefix, f"{match[1]}_proj.weight", None, spec.shape, weights)
        return [_Candidate(spec.name, candidate.names, None, spec.shape)]
    return []


def _part(
    prefix: str, leaf: str, rows: Optional[Tuple[int, int]], shape: Tuple[int, ...], weights: WeightsSection
) -> _Candidate:
    return _Candidate(prefix + leaf, (rename(prefix + leaf, weights.rename),), rows, shape)


def _piece(spec: TensorSpec, target: TensorSpec, candidate: _Candidate, weights: WeightsSection) -> Piece:
    linear = spec.layout or ("out_in" if candidate.name != spec.name and len(spec.shape) == 2 else "")
    if spec.module_type == "MultiheadAttention" and len(spec.shape) == 2:
        linear = "out_in"
    transposed = {linear, target.layout} == {"out_in", "in_out"}
    if any(
        fnmatch.fnmatchcase(candidate.name, glob) or fnmatch.fnmatchcase(spec.name, glob) for glob in weights.transpose
    ):
        transposed = True
    expected = tuple(reversed(candidate.shape)) if transposed else candidate.shape
    if expected != target.shape:
        hint = ""
        if tuple(reversed(candidate.shape)) == target.shape and not transposed:
            hint = f'; if it is stored transposed there, add "{candidate.name}" to weights.transpose'
        raise CaseError(
            f"weights: torch's {candidate.name} {list(candidate.shape)} is paddle's {target.name} {list(target.shape)} by name, "
            f"which should be {list(expected)}{hint}"
        )
    return Piece(
        candidate.name, spec.kind, Slot(spec.name, candidate.rows), Slot(target.name, None, transposed), candidate.shape
    )


def _left_over(torch: Sequence[TensorSpec], paddle: Sequence[TensorSpec], weights: WeightsSection) -> str:
    lines = ["weights: the two sides do not have the same parameters and buffers"]
    torch_names = {rename(spec.name, weights.rename): spec.name for spec in torch}
    paddle_names = {spec.name for spec in paddle}
    for renamed, name in torch_names.items():
        shown = name if renamed == name else f"{name} (renamed to {renamed})"
        near = difflib.get_close_matches(renamed, paddle_names, n=2, cutoff=0.4)
        lines.append(f"  torch only:  {shown}" + (f"; nearest on paddle: {', '.join(near)}" if near else ""))
    for name in sorted(paddle_names):
        near = difflib.get_close_matches(name, torch_names, n=2, cutoff=0.4)
        lines.append(
            f"  paddle only: {name}"
            + (f"; nearest on torch: {', '.join(torch_names[item] for item in near)}" if near else "")
        )
    lines.append("add rules to [weights] rename, or list what one side has on purpose in [weights] ignore")
    return "\n".join(lines)


def match_modules(
    torch: Sequence[TensorSpec],
    paddle: Sequence[TensorSpec],
    pieces: Sequence[Piece],
    weights: WeightsSection,
    torch_modules: Sequence[ModuleSpec],
    paddle_modules: Sequence[ModuleSpec],
) -> Tuple[Tuple[str, str], ...]:
    """Return the pairs of module paths: those that own paired tensors, their containers, and those of equal renamed
    path.
    """
    owner = {("torch", spec.name): spec.module for spec in torch} | {
        ("paddle", spec.name): spec.module for spec in paddle
    }
    there = {module.path for module in paddle_modules}
    pairs: Dict[str, str] = {"": ""}
    for piece in pieces:
        ours, theirs = owner["torch", piece.torch.tensor], owner["paddle", piece.paddle.tensor]
        if piece.torch.rows is not None:
            theirs = theirs.rpartition(".")[0]
        while ours and theirs and ours not in pairs:
            pairs[ours] = theirs
            ours, _, ours_leaf = ours.rpartition(".")
            theirs, _, theirs_leaf = theirs.rpartition(".")
            if ours_leaf != theirs_leaf:
                break
    for module in torch_modules:
        if module.path in pairs:
            continue
        parent, _, leaf = module.path.rpartition(".")
        guesses = [rename(module.path + ".", weights.rename).rstrip("."), rename(module.path, weights.rename)]
        if parent in pairs:
            guesses.append(f"{pairs[parent]}.{leaf}".lstrip("."))
        found = next((guess for guess in guesses if guess in there), None)
        if found is not None:
            pairs[module.path] = found
    ours_known = {module.path for module in torch_modules}
    return tuple((ours, theirs) for ours, theirs in pairs.items() if ours in ours_known and theirs in there)
