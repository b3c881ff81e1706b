"""`stepalign schedule` with both real frameworks."""

from __future__ import annotations

from pathlib import Path

from ..real_cases import PADDLE_SIDE, TORCH_SIDE, stepalign, write_case

TORCH_PLATEAU = """
def schedule(case):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
"""
PADDLE_PLATEAU = """
def schedule(case):
    schedule = paddle.optimizer.lr.ReduceOnPlateau(0.1, factor=0.5, patience=5)
    return paddle.optimizer.SGD(schedule, parameters=[paddle.create_parameter([1], "float32")]), schedule
"""


def test_a_schedule_that_watches_the_loss_is_stepped_with_the_same_losses_on_both_sides(tmp_path: Path) -> None:
    case = write_case(tmp_path / "plateau", torch=TORCH_SIDE + TORCH_PLATEAU, paddle=PADDLE_SIDE + PADDLE_PLATEAU)
    ended = stepalign("schedule", case, "--steps", "600", cwd=tmp_path, out=tmp_path / "out")
    assert ended.code == 0, ended.stdout + ended.stderr
    rates = [step[0] for step in ended.result["series"]["lr"]["torch"]]
    assert rates[0] == 0.1 and rates[100] > rates[-1] and len(set(rates)) > 3
