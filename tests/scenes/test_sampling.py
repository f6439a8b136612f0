from __future__ import annotations

from collections import Counter

import numpy as np

from laterna.scenes.sampling import pick, shuffled


def test_every_option_is_as_likely() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(pick("abc", rng) for _ in range(6000))
    assert set(drawn) == {"a", "b", "c"}
    assert all(1850 < times < 2150 for times in drawn.values())


def test_all_come_once_in_every_order() -> None:
    rng = np.random.default_rng(0)
    orders = Counter(tuple(shuffled((1, 2, 3), rng)) for _ in range(6000))
    assert len(orders) == 6
    assert {tuple(sorted(order)) for order in orders} == {(1, 2, 3)}
    assert all(850 < times < 1150 for times in orders.values())
