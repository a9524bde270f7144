"""Files of keys that change while they are used."""

import logging
import os
from pathlib import Path

import pytest

from shared.access import KeyFile, SentKey, digest_of
from shared.access.key_file import LOOK_SECONDS
from shared.errors import Invalid
from tests.support.keys import written_keys

KEY = 'scopes = ["generate"]'


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def known(file: KeyFile, *keys: str) -> list[bool]:
    return [file().find("bearer", digest_of(key)) is not None for key in keys]


def test_what_is_added_and_taken_out_counts_with_the_next_look(tmp_path: Path) -> None:
    clock, path = Clock(), written_keys(tmp_path / "keys", {"one": KEY})
    file = KeyFile(path, clock)
    written_keys(path, {"one": KEY, "two": KEY})
    assert known(file, "one", "two") == [True, False], "it was looked at a moment ago"
    clock.now = LOOK_SECONDS
    assert known(file, "one", "two") == [True, True]
    written_keys(path, {"two": KEY})
    clock.now += LOOK_SECONDS
    assert known(file, "one", "two") == [False, True]


def test_a_file_put_in_its_place_counts_though_size_and_time_are_the_same(tmp_path: Path) -> None:
    clock, path = Clock(), written_keys(tmp_path / "keys", {"one": KEY})
    file, state = KeyFile(path, clock), path.stat()
    other = written_keys(tmp_path / "other", {"two": KEY})
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.rename(path)
    clock.now = LOOK_SECONDS
    assert known(file, "one", "two") == [False, True]


@pytest.mark.parametrize("edit", ["[keys.a", "[keys.a]\nscopes = ['all']", None, b"\xff"])
def test_a_broken_edit_keeps_the_keys_and_is_logged_once(
    tmp_path: Path, edit: str | bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = Clock(), written_keys(tmp_path / "keys", {"one": KEY})
    file = KeyFile(path, clock)
    if edit is None:
        path.unlink()
    else:
        path.write_bytes(edit if isinstance(edit, bytes) else edit.encode())
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            clock.now += LOOK_SECONDS
            assert known(file, "one") == [True]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    written_keys(path, {"two": KEY})
    clock.now += LOOK_SECONDS
    assert known(file, "one", "two") == [False, True]


@pytest.mark.parametrize("kind", [KeyFile, SentKey])
def test_what_cannot_be_read_to_begin_with_is_refused(
    tmp_path: Path, kind: type[KeyFile | SentKey]
) -> None:
    with pytest.raises(Invalid, match="No such file"):
        kind(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid, match="no UTF-8"):
        kind(tmp_path / "bytes")


def test_a_key_that_is_sent_changes_with_its_file(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "key"
    path.write_text("tandem_one\n")
    key = SentKey(path, clock)
    assert key() == b"Bearer tandem_one"
    path.write_text("two words\n")
    clock.now = LOOK_SECONDS
    assert key() == b"Bearer tandem_one"
    path.write_text("tandem_three")
    clock.now += LOOK_SECONDS
    assert key() == b"Bearer tandem_three"


@pytest.mark.parametrize("text", ["", "\n", "two words", "two\nlines", "schlüssel", "x" * 513])
def test_what_is_no_key_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(Invalid) as refused:
        SentKey(tmp_path / "key")
    assert not text.strip() or text.strip() not in str(refused.value)
