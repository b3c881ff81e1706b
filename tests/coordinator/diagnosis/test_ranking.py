"""How causes are merged and sorted."""

from __future__ import annotations

from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.ranking import rank


def cause(code: str, confidence: float, category: Category = Category.LOSS) -> Cause:
    return Cause(category, code, confidence, f"{code} {confidence}", "")


def test_the_most_likely_cause_comes_first_and_each_code_once() -> None:
    ranked = rank([cause("a", 0.4), cause("b", 0.9), cause("a", 0.7), cause("b", 0.2)])
    assert [(c.code, c.confidence) for c in ranked] == [("b", 0.9), ("a", 0.7)]


def test_one_code_in_two_categories_is_two_causes() -> None:
    assert len(rank([cause("sign_flipped", 0.5), cause("sign_flipped", 0.5, Category.BACKWARD)])) == 2


def test_equal_confidence_keeps_the_order() -> None:
    assert [c.code for c in rank([cause("x", 0.5), cause("y", 0.5), cause("z", 0.5)])] == ["x", "y", "z"]
