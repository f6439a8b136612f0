"""Live bytes: storages count from when they are made until nothing holds them."""

from __future__ import annotations

import torch

from laterna.planner.memory import LiveBytes


def test_views_share_and_freed_storages_are_gone() -> None:
    before = torch.empty(10, device="meta")
    with LiveBytes() as live:
        live.add([before, before.view(2, 5)])
        assert live.now == 40
        made = before + 1
        view = made.view(5, 2)
        del made
        assert live.now == 80
        del view
        assert live.now == 40
        torch.cat([before, before])
        assert (live.now, live.peak) == (40, 120)
