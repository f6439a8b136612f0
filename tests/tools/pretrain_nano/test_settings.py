from __future__ import annotations

import pytest

from laterna.world.scenes import MAX_TOYS
from pretrain_nano.settings import (
    LanguagePretraining,
    VisionPretraining,
    report,
    scheduled,
)


def test_the_curriculum_goes_from_one_toy_to_all() -> None:
    steps = ((0.1, 1), (0.2, 2), (1.0, 5))
    indices = (0, 10, 11, 20, 21, 99)
    assert [scheduled(steps, index, 100) for index in indices] == [1, 1, 2, 2, 5, 5]


@pytest.mark.parametrize("settings", [VisionPretraining(), LanguagePretraining()])
def test_the_shipped_curricula_rise_and_end_with_all(
    settings: VisionPretraining | LanguagePretraining,
) -> None:
    assert list(settings.curriculum) == sorted(settings.curriculum)
    assert settings.curriculum[0][1] == 1
    assert settings.curriculum[-1] == (1.0, MAX_TOYS)


def test_figures_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    report({"step": 100, "loss": 0.123456})
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "step 100  loss 0.1235\n")
