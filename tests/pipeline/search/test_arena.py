from __future__ import annotations

import torch

from edgesmith.pipeline.search.arena import Arena


def maps() -> list[torch.Tensor]:
    return [torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), torch.randn(1, 2, 2, 2)]


def test_arena_has_room_for_what_was_kept_the_last_time() -> None:
    arena = Arena()
    given = maps()
    assert all(arena.keep(m) is m for m in given)  # no room yet
    arena.clear()
    block = arena.block
    for _ in range(2):
        given = maps()
        kept = [arena.keep(m) for m in given]
        assert all(torch.equal(a, b) for a, b in zip(kept, given, strict=True))
        assert all(k.untyped_storage().data_ptr() == block.untyped_storage().data_ptr() for k in kept)
        assert kept[0].is_contiguous(memory_format=torch.channels_last)
        arena.clear()
        assert arena.block is block


def test_arena_grows_and_takes_maps_of_another_kind() -> None:
    arena = Arena()
    arena.keep(torch.zeros(1, 1, 2, 2))
    arena.clear()
    more = [torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)]
    assert arena.keep(more[0]) is not more[0]
    assert arena.keep(more[1]) is more[1]
    arena.clear()
    assert len(arena.block) == 8
    other = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    assert arena.keep(other) is other
    arena.clear()
    assert arena.keep(other).dtype == torch.float64
