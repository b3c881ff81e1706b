"""Which modules of the two sides draw their shared dropout masks under one name."""

from __future__ import annotations

from typing import Tuple

from stepalign.coordinator.sessions.dropout_places import shared_places
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.specs import ModuleSpec


def modules(*paths: str, drop: Tuple[str, ...] = ()) -> Tuple[ModuleSpec, ...]:
    kinds = {path: "Dropout" if path in drop else "Net" for path in ("", *paths, *drop)}
    return tuple(ModuleSpec(path, kind, kind, True) for path, kind in kinds.items())


def names(*pairs: Tuple[str, str]) -> NameMap:
    return NameMap((), (("", ""), *pairs))


def test_pairs_have_one_name_and_a_dropout_module_none() -> None:
    torch, paddle = modules("block", drop=("block.drop",)), modules("layer", drop=("layer.drop",))
    assert shared_places(names(("block", "layer"), ("block.drop", "layer.drop")), torch, paddle) == (
        {"": "", "block": "block"},
        {"": "", "layer": "block"},
    )


def test_a_module_of_one_side_alone_has_no_name() -> None:
    torch, paddle = modules("block", "block.attention"), modules("block", "block.own")
    assert shared_places(names(("block", "block")), torch, paddle) == (
        {"": "", "block": "block"},
        {"": "", "block": "block"},
    )


def test_two_containers_for_one_share_its_place() -> None:
    torch, paddle = modules("block", "block.mlp"), modules("block")
    assert shared_places(names(("block", "block"), ("block.mlp", "block")), torch, paddle) == (
        {"": "", "block": "block", "block.mlp": "block"},
        {"": "", "block": "block"},
    )


def test_a_container_that_only_paddle_has_shares_the_place_of_the_one_around_it() -> None:
    torch, paddle = modules("block"), modules("block", "block.mlp")
    assert shared_places(names(("block", "block.mlp")), torch, paddle) == (
        {"": "", "block": "block"},
        {"": "", "block": "block", "block.mlp": "block"},
    )
