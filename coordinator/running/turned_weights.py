"""Tries square matrices of the code in which the sides part the other way round, as a porter would, in a further replay.

Whether paddle keeps a matrix transposed is known of linear layers, and shows in the shape of others, unless that is square:
then only the case can say it, and what it says loads without an error. Where the sides part in code that has such a matrix
of its own, the step is run again with it turned: if they then agree for longer, that was it.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import replace
from typing import Collection, Iterator, List, Optional, Sequence, Tuple

from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.processes.switchboard import Interrupted
from stepalign.coordinator.running.activation_names import shown_path
from stepalign.coordinator.running.first_difference import Located, find_first
from stepalign.coordinator.running.replay import replay_steps
from stepalign.coordinator.running.run_state import Run, Watcher
from stepalign.coordinator.sessions.naming import NameMap, Piece
from stepalign.protocol.errors import StepalignError
from stepalign.protocol.specs import Declaration, TensorSpec

_MOST_TRIALS = 3
"""Of matrices that are turned one by one: each is a run of the step."""


def explain_by_turning(run: Run, located: Optional[Located], watcher: Watcher) -> List[Cause]:
    """Return which square matrices paddle is given the wrong way round; none where no trial goes further."""
    if located is None or located.first is None or located.backward or located.updated is not None or located.first.step:
        return []
    if run.session is None or run.crew is None or run.batches is None or run.case.against is not None:
        return []
    if run.case.file.weights.source == "none":
        return []
    place = located.module if located.container is None else located.container
    found = own_matrices(run.session.names, run.declarations["torch"], run.declarations["paddle"], place)
    for pieces in trials(found):
        watcher.phase(f"replaying step 0 with {' and '.join(piece.name for piece in pieces)} turned")
        case = turned(run.case, run.session.names, pieces)
        try:
            replayed = replay_steps(case, run.crew, run.folder, (0,), ("*",), run.batches, watcher.tick)
        except Interrupted:
            raise
        except StepalignError:
            return []
        pair = replayed.pairs[0]
        torch, paddle = (side.tensors.get("activation", {}) for side in (pair.reference, pair.candidate))
        later = _differing_output(find_first(case, replayed.names, torch, paddle, 0))
        if goes_further(located.first.name, later, list(torch)):
            return [_cause(pieces, place, "all outputs agree" if later is None else f"{located.first.name} agrees")]
    return []


def own_matrices(names: NameMap, torch: Declaration, paddle: Declaration, place: str) -> List[Piece]:
    """Return the square matrices that belong to torch's module ``place`` itself and of which no layer says how both sides
    keep them.
    """
    ours, theirs = ({spec.name: spec for spec in side.tensors} for side in (torch, paddle))
    framework = {module.path for module in torch.modules if module.framework_class.startswith("torch.")}
    return [
        piece
        for piece in names.pieces
        if piece.kind == "parameter"
        and len(piece.shape) == 2
        and piece.shape[0] == piece.shape[1] > 1
        and ours[piece.torch.tensor].module == place
        and not _known(ours[piece.torch.tensor], theirs[piece.paddle.tensor], framework)
    ]


def _known(ours: TensorSpec, theirs: TensorSpec, framework: Collection[str]) -> bool:
    """Say whether it is known how both sides keep a matrix: of linear layers, and of the framework's other ones."""
    return ours.module in framework and (not ours.layout or bool(theirs.layout))


def trials(pieces: Sequence[Piece]) -> Iterator[Tuple[Piece, ...]]:
    """Yield what is turned together: all of them, as one mistake mostly is, if paddle has them alike; then one by one."""
    if len({piece.paddle.transposed for piece in pieces}) == 1:
        yield tuple(pieces)
    if 1 < len(pieces) <= _MOST_TRIALS:
        yield from ((piece,) for piece in pieces)


def turned(case: Case, names: NameMap, pieces: Sequence[Piece]) -> Case:
    """Return the case with ``weights.transpose`` such that the matrices, and those of the same name in other blocks, are
    turned.
    """
    globs = [glob_of(piece.name) for piece in pieces]
    turned_back = {glob for glob, piece in zip(globs, pieces) if piece.paddle.transposed}
    weights = case.file.weights
    kept = [
        piece.name
        for piece in names.pieces
        if any(fnmatch.fnmatchcase(name, each) for each in weights.transpose for name in (piece.name, piece.torch.tensor))
        and not any(fnmatch.fnmatchcase(piece.name, glob) for glob in turned_back)
    ]
    added = [glob for glob in globs if glob not in turned_back]
    return replace(case, file=replace(case.file, weights=replace(weights, transpose=(*kept, *added))))


def glob_of(name: str) -> str:
    """Return a tensor's name with ``*`` for the numbers of blocks: ``blocks.*.mix`` for ``blocks.0.mix``."""
    return re.sub(r"(?<![^.])\d+(?=\.)", "*", name)


def _differing_output(located: Optional[Located]) -> Optional[str]:
    """Return the name of the output or input that differs first; None where only gradients do, or nothing."""
    return None if located is None or located.backward or located.first is None else located.first.name


def goes_further(before: str, after: Optional[str], order: Sequence[str]) -> bool:
    """Say whether ``after`` comes later than ``before`` in the order of what was recorded; None is the end of it."""
    if before not in order:
        return False
    return after is None or (after in order and order.index(before) < order.index(after))


def _cause(pieces: Sequence[Piece], place: str, further: str) -> Cause:
    shown = " and ".join(piece.name for piece in pieces)
    globs = ", ".join(f'"{glob}"' for glob in dict.fromkeys(glob_of(piece.name) for piece in pieces))
    if pieces[0].paddle.transposed:
        evidence = f"{shown} is square, and paddle is given it transposed; in a replay with it given as it is, {further}"
        fix = f"take {globs} out of [weights] transpose, or multiply by its transpose in {shown_path(place)} of the paddle model"
    else:
        evidence = f"{shown} is square, and paddle is given it as torch has it; in a replay with it given transposed, {further}"
        fix = f"add {globs} to [weights] transpose, or multiply by it as torch does in {shown_path(place)} of the paddle model"
    return Cause(Category.INITIAL_WEIGHTS, "transposed", 0.97, evidence, fix)
