"""Chinese: no message is missing or left over, places match, and whole results read as Chinese."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepalign.coordinator.cases.case import KINDS
from stepalign.coordinator.diagnosis.cause import Category
from stepalign.coordinator.languages.sources import UNTRACED, find_messages
from stepalign.coordinator.languages.translation import (
    DOMAINS,
    LANGUAGES,
    Catalogue,
    catalogue,
    choose,
    language,
    of_locale,
    read_messages,
    read_tables,
    say,
)
from stepalign.coordinator.report.terminal import print_verdict
from stepalign.coordinator.report.wording import kind_words

from ..made_up_results import every_result, schedule_only

ROOT = Path(__file__).resolve().parents[3]
PLACE = re.compile(r"\{\d+\}")


@pytest.fixture
def chinese() -> Iterator[None]:
    choose("zh")
    yield
    choose(None)


@pytest.mark.parametrize("chosen", LANGUAGES[1:])
@pytest.mark.parametrize("domain", DOMAINS)
def test_no_message_is_missing(chosen: str, domain: str) -> None:
    held = read_messages(chosen, domain)
    lacking = [text for text in find_messages(domain) if text not in held] if domain != "errors" else []
    assert lacking == [], "python -m stepalign.coordinator.languages.sources prints the lines to fill in"


@pytest.mark.parametrize("chosen", LANGUAGES[1:])
@pytest.mark.parametrize("domain", DOMAINS)
def test_no_message_is_left_over(chosen: str, domain: str) -> None:
    wanted = find_messages(domain)
    left = [
        text
        for table, messages in read_tables(chosen, domain).items()
        if table not in UNTRACED
        for text in messages
        if text not in wanted
    ]
    assert left == []


@pytest.mark.parametrize("chosen", LANGUAGES[1:])
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_translation_has_the_places_of_its_message(chosen: str, domain: str) -> None:
    wrong = [
        english
        for english, other in read_messages(chosen, domain).items()
        if set(PLACE.findall(english)) != set(PLACE.findall(other)) or not other.strip(" ，。")
        if english.strip(" ,")
    ]
    assert wrong == []


@pytest.mark.parametrize("chosen", LANGUAGES[1:])
def test_every_category_kind_and_cause_has_a_name(chosen: str) -> None:
    words = read_messages(chosen, "causes")
    page = (ROOT / "docs" / "causes.md").read_text(encoding="utf-8")
    codes = re.findall(r"^\| `([a-z0-9_]+)` \|", page, re.MULTILINE)
    assert len(codes) > 150
    names = [*KINDS, *(category.value for category in Category), *codes]
    assert [name for name in names if kind_words(name) not in words] == []


def test_what_is_filled_in_is_translated_too() -> None:
    found = Catalogue(
        {
            "paddle decays {0} by {1}": "paddle 对 {0} 以 {1} 衰减",
            "all {0} parameters": "全部 {0} 个参数",
            "so it is, on {0}": "确实如此，在 {0} 上",
        }
    )
    assert found.translate("paddle decays all 3 parameters by 0.1") == "paddle 对全部 3 个参数以 0.1 衰减"
    assert found.translate("paddle decays w by 0.1; so it is, on x") == "paddle 对 w 以 0.1 衰减；确实如此，在 x 上"
    assert found.translate("nothing of the kind") == "nothing of the kind"


def test_an_index_stays_whole_where_a_comma_follows_it() -> None:
    messages = Catalogue({"departs by {0} at {1}, {2} times what rounding may do": "偏离 {0}（位于 {1}），舍入的 {2} 倍"})
    assert messages.translate("departs by 2e-06 at [16, 17], 59.8 times what rounding may do") == (
        "偏离 2e-06（位于 [16, 17]），舍入的 59.8 倍"
    )
    broken = messages.translate("departs by 2e-06 at [16, 59.8 times what rounding may do")
    assert broken == "偏离 2e-06（位于 [16），舍入的 59.8 倍"


def test_a_users_traceback_is_left_as_it_is() -> None:
    trace = 'Traceback (most recent call last):\n  File "a.py", line 1, in build\nKeyError: lr at 3, and more in x'
    shown = catalogue("zh", "errors").translate(f"the torch side failed in phase build: boom\n{trace}")
    assert shown.startswith("torch 一侧在 build 阶段失败") and shown.endswith(trace)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "en"),
        ({"LC_ALL": "zh_TW", "LC_MESSAGES": "C"}, "zh"),
        ({"LC_ALL": "", "LANG": "zh"}, "zh"),
        ({"LC_ALL": "fr_FR.UTF-8", "LANG": "zh_CN"}, "en"),
    ],
)
def test_the_locale_chooses_the_language(environment: dict[str, str], expected: str) -> None:
    assert of_locale(environment) == expected


def test_a_choice_stands_over_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert language() == "zh"
    choose("en")
    assert language() == "en" and say("VERDICT") == "VERDICT"
    choose(None)
    with pytest.raises(ValueError, match="expected one of en, zh"):
        choose("xx")


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize("name", every_result())
def test_a_result_is_told_in_chinese_within_80_columns(name: str) -> None:
    from rich.cells import cell_len

    file = io.StringIO()
    print_verdict(every_result()[name], None, file)
    text = file.getvalue()
    assert text.startswith("结论") and "下一步" in text
    assert max(map(cell_len, text.splitlines())) <= 80


REAL = {
    "activation blocks.0@input at step 0: 16 of 272 elements out of tolerance; greatest difference 0.5 at [0, 0, 3]; the sides "
    "part in the code of the model itself, after embed and before the call of blocks.0; it differs only at position 0 of 17 "
    "along axis 1": "第 0 步，激活 blocks.0@input：272 个元素中有 16 个超出容差；最大差异 0.5，位于 [0, 0, 3]；两侧从此分开："
    "在模型本身的代码中，在 embed 之后、调用 blocks.0 之前；只在第 1 轴的位置 0（共 17 个）不同",
    "it differs only at positions 3 to 7 of 17 along axis 1 and at position 2 of 4 along axis 0": "只在第 1 轴的位置 3 到 7"
    "（共 17 个）、第 0 轴的位置 2（共 4 个）不同",
    "beta2 = 0.99 fits paddle's numbers, torch has 0.999, on all 41 parameters; what is left is 1 times what rounding "
    "may do, 9.44e+06 times without it": "paddle 的数值符合 beta2 = 0.99，torch 为 0.999，涉及全部 41 个参数；"
    "剩余是舍入误差所能造成的 1 倍，不这样解释则为 9.44e+06 倍",
    "beta2=0.999 in paddle.optimizer.AdamW(...)": "在 paddle.optimizer.AdamW(...) 中设置 beta2=0.999",
    "the code of encoder.0, after encoder.0.intermediate and before the call of encoder.0.output computes gelu (erf) in "
    "torch and gelu (tanh) in paddle, each to 2e-07": "encoder.0 的代码（在 encoder.0.intermediate 之后、调用"
    " encoder.0.output 之前）在 torch 中计算的是 gelu（erf），在 paddle 中是 gelu（tanh 近似），误差均在 2e-07 以内",
    "8050 of 131072 elements out of tolerance; greatest difference 0.000179 at [0, 9, 402]": "131072 个元素中有 8050"
    " 个超出容差；最大差异 0.000179，位于 [0, 9, 402]",
    "8050 of 131072 elements out of tolerance; greatest difference 0.000179 at [0, 9, 402]; the sides part in the code of "
    "encoder.0, after encoder.0.intermediate and before the call of encoder.0.output": "131072 个元素中有 8050 个超出"
    "容差；最大差异 0.000179，位于 [0, 9, 402]；两侧从此分开：在 encoder.0 的代码中，在 encoder.0.intermediate"
    " 之后、调用 encoder.0.output 之前",
    "5000 steps, every group: greatest relative difference 0; torch's rate 6e-06 at 100, 3e-05 at 500": "5000 步，"
    "每个参数组：最大相对差异 0；torch 的学习率第 100 步为 6e-06，第 500 步为 3e-05",
    "torch decays 6 parameters by 0.01, paddle none: fc1.weight, fc1.bias, norm.weight and 3 more": "torch 对 6 个参数以 0.01"
    " 做权重衰减，paddle 不做：fc1.weight，fc1.bias，norm.weight 以及另外 3 个",
    "activation blocks.0.mix@input at step 0: 1920 of 1920 elements out of tolerance; greatest difference 1.13 at [4, 5, 3]; the "
    "sides part in the code of blocks.0, after blocks.0.value and before the call of blocks.0.mix": "第 0 步，激活"
    " blocks.0.mix@input：1920 个元素中有 1920 个超出容差；最大差异 1.13，位于 [4, 5, 3]；两侧从此分开：在 blocks.0 的代码中，"
    "在 blocks.0.value 之后、调用 blocks.0.mix 之前",
    "attn: of the positions of its scores torch's key_padding_mask hides 15 of 80, paddle's attn_mask hides 65 of 80; each hides "
    "what the other one keeps": "attn：在注意力分数的各个位置中，torch 的 key_padding_mask 遮住了 80 个中的 15 个，paddle 的"
    " attn_mask 遮住了 80 个中的 65 个；一侧遮住的正是另一侧保留的",
    "attn: of the positions of its scores torch's attn_mask hides 3 of 9, paddle's masks none; they first differ at [0, 0, 0, 1] "
    "of [batch, heads, L, S]": "attn：在注意力分数的各个位置中，torch 的 attn_mask 遮住了 9 个中的 3 个，paddle 的一个都没有遮住；"
    "最先不同于 [batch, heads, L, S] 的 [0, 0, 0, 1]",
    "in block, block.fc is called before block.norm in paddle and after it in torch": "在 block 中，paddle 在调用 block.norm"
    " 之前调用 block.fc，torch 则在其后",
}
"""Evidence and fixes of real runs, which several messages make together."""


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize("english", REAL)
def test_what_real_runs_say_reads_as_chinese(english: str) -> None:
    assert say(english, "causes") == REAL[english]


@pytest.mark.usefixtures("chinese")
def test_rates_alone_have_their_own_headline() -> None:
    file = io.StringIO()
    print_verdict(schedule_only(), None, file, rate_steps=[100])
    assert "学习率不同" in file.getvalue()
