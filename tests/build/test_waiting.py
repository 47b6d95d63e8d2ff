"""Which steps can start, and what reads a file that is still coming."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from fakes import FakeStep

from mbuild.build.steps.arriving import Arrival, Readers
from mbuild.build.waiting import Waiting, passes
from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import CancelledError
from mbuild.registry.transfer.partial import PartialBlob
from mbuild.store import Store


def arriving(store: Store, size: int = 100) -> tuple[Arrival, PartialBlob]:
    """A file of which nothing is there yet."""
    partial = PartialBlob(store.blobs, Digest("1" * 64), size, twice=True)
    assert partial.claim()
    partial.begin()
    return Arrival(partial), partial


def test_a_reader_waits_for_its_stretch(tmp_path: Path) -> None:
    """And for no more than that."""
    store = Store(tmp_path / "store")
    store.prepare()
    arrival, partial = arriving(store)
    reached = threading.Event()

    def read() -> None:
        arrival.reader(lambda: None).wait(10, 20)
        reached.set()

    thread = threading.Thread(target=read)
    thread.start()
    partial.write(0, bytes(15))
    partial.note(0, 15)
    time.sleep(0.1)
    assert not reached.is_set()
    partial.write(15, bytes(5))
    partial.note(15, 20)
    thread.join(5)
    assert reached.is_set() and arrival.path.exists()
    partial.discard()


def test_whoever_waits_hears_of_the_end(tmp_path: Path) -> None:
    """Of a stopped build, and of a whole file."""
    store = Store(tmp_path / "store")
    store.prepare()
    arrival, partial = arriving(store)

    def stopped() -> None:
        raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        arrival.reader(stopped).wait(0, 1)
    with pytest.raises(CancelledError):
        arrival.result(stopped)
    blake3 = Digest("2" * 64, BLAKE3)
    arrival.ends(blake3)
    arrival.reader(stopped).wait(0, 100)
    assert arrival.result(stopped) == blake3
    partial.discard()


class Early(FakeStep):
    """A step that starts while what it needs is on its way."""

    needs: tuple[FakeStep, ...] = ()

    @property
    def overlaps(self) -> bool:
        """It can."""
        return True


def test_a_step_starts_when_it_waits_for_nothing() -> None:
    """Whoever can read what is on its way waits only for the beginning, and starts once."""
    download = FakeStep("download")
    late = FakeStep("late", inputs=(download, download))
    early = Early("early", needs=(download,))
    waiting = Waiting([download, late, early], set())
    assert waiting.ready() == [download]
    assert waiting.begun(download) == [early]
    assert waiting.begun(download) == []
    assert waiting.done(download) == [late]
    assert Waiting([late, early], {download}).ready() == [late, early]


class Together(Early):
    """One of a group, which reads once for all of them."""

    @property
    def group(self) -> str:
        """All are one."""
        return "readers"


def test_what_is_read_once_while_it_comes_need_not_be_kept() -> None:
    """By one step, or by a group that starts together; not by two, by a late one, or by none."""
    download, other = FakeStep("download"), FakeStep("other")
    one, two = (Together(name, needs=(download,)) for name in ("one", "two"))
    assert passes(download, [download, one])
    assert passes(download, [download, one, two])
    assert not passes(download, [download, one, Early("three", needs=(download,))])
    assert not passes(download, [download])
    later = Together("later", needs=(download,), inputs=(other,))
    assert not passes(download, [download, other, one, later])
    assert passes(download, [download, one, later])  # the other one is over


def test_a_download_knows_whether_somebody_waits() -> None:
    """Nobody has come; one reads; one waits, of several; all have what they need again."""
    readers = Readers()
    assert not readers.are_busy
    readers.begin()
    assert readers.are_busy
    with readers.waiting():
        with readers.waiting():
            assert not readers.are_busy
        assert not readers.are_busy
    assert readers.are_busy
