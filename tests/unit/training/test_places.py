"""Learned exits are put in their place all together, however a run ends."""

from pathlib import Path

import pytest

from shared.model.exits import INDEX, WEIGHTS
from training.heads import places


@pytest.mark.parametrize("done", range(3))
def test_what_is_put_in_half_has_no_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    work, target = tmp_path / "work", tmp_path / "target"
    for folder, content in ((work, "new"), (target, "old")):
        folder.mkdir()
        for name in (INDEX, WEIGHTS, "translators.json"):
            (folder / name).write_text(content)
    put, left = places._put, [done]

    def break_off(path: Path, to: Path) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        put(path, to)

    monkeypatch.setattr(places, "_put", break_off)
    with pytest.raises(KeyboardInterrupt):
        places.publish(work, target)
    assert not (target / INDEX).exists()
    assert {path.read_text() for path in target.iterdir()} <= {"new"}
    monkeypatch.undo()
    places.publish(work, target)
    assert (target / INDEX).read_text() == "new"
