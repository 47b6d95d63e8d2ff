"""The order in which ranges are asked for is that in which somebody needs them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from mbuild.core.digest import Digest
from mbuild.registry.client.access import Access
from mbuild.registry.client.registry import Registry
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer.download import RANGE, Download
from mbuild.registry.transfer.partial import PartialBlob
from mbuild.registry.transfer.queueing import HEADER, RangeQueue
from mbuild.store import Store
from mbuild.work.cancel import Cancel

SIZE = 3 * RANGE


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[list[Download]]:
    """Two files of three ranges each, of which nothing is there; nobody is asked for them."""
    store = Store(tmp_path / "store")
    store.prepare()
    registry = Registry(ModelReference.parse("192.0.2.1/a/b"), Access(), Cancel())
    blobs = [PartialBlob(store.blobs, Digest(digit * 64), SIZE) for digit in "12"]
    for blob in blobs:
        assert blob.claim()
        blob.begin()
    yield [Download(registry, blob, Cancel()) for blob in blobs]
    for blob in blobs:
        blob.discard()


def taken(queue: RangeQueue, downloads: list[Download]) -> list[tuple[int, int, int]]:
    """Everything that is left: the file's number, and where the range begins and ends."""
    found = []
    while len(queue):
        download, (start, end) = queue.take()
        found.append((downloads.index(download), start, end))
    return found


def test_one_file_after_the_other(downloads: list[Download]) -> None:
    """Where nobody reads before the end."""
    steps = range(0, SIZE, RANGE)
    expected = [(file, at, at + RANGE) for file in (0, 1) for at in steps]
    assert taken(RangeQueue(downloads, early=False), downloads) == expected


def test_headers_come_first(downloads: list[Download]) -> None:
    """A megabyte of each file, then one file after the other, in which nothing is missing."""
    found = taken(RangeQueue(downloads, early=True), downloads)
    assert found[:2] == [(0, 0, HEADER), (1, 0, HEADER)]
    assert [file for file, _, _ in found[2:]] == [0, 0, 0, 1, 1, 1]
    for file in (0, 1):
        ends = [0, *(end for number, _, end in found if number == file)]
        assert [start for number, start, _ in found if number == file] == ends[:-1]
        assert ends[-1] == SIZE


def test_what_somebody_waits_for_comes_before_all_else(downloads: list[Download]) -> None:
    """In the order of the files where several wait; and no longer once nobody does."""
    queue = RangeQueue(downloads, early=True)
    last = SIZE - 5
    with downloads[1].partial.wanting(last, SIZE), downloads[0].partial.wanting(last, SIZE):
        assert [queue.take()[0] for _ in range(2)] == downloads
    with downloads[1].partial.wanting(RANGE, RANGE + HEADER + 1):  # of two ranges
        assert queue.take() == (downloads[1], (HEADER, RANGE + HEADER))
        assert queue.take() == (downloads[1], (RANGE + HEADER, 2 * RANGE + HEADER))
        assert queue.take() == (downloads[0], (0, HEADER))  # it is on its way
    assert downloads[1].partial.wanted == []
    assert queue.take() == (downloads[1], (0, HEADER))


def test_what_follows_comes_next(downloads: list[Download]) -> None:
    """Behind what a reader waited for last, in the files after it, too; then what is left."""
    queue = RangeQueue(downloads, early=True)
    for _ in downloads:
        queue.take()
    steps = [HEADER, HEADER + RANGE, HEADER + 2 * RANGE, SIZE]
    spans = list(pairwise(steps))
    with downloads[0].partial.wanting(HEADER + RANGE, SIZE):
        assert queue.take() == (downloads[0], spans[1])
    assert queue.take() == (downloads[0], spans[2])  # nobody waits any more
    with downloads[1].partial.wanting(SIZE - 1, SIZE):
        assert queue.take() == (downloads[1], spans[2])
    expected = [(0, *spans[0]), (1, *spans[0]), (1, *spans[1])]
    assert taken(queue, downloads) == expected


def test_a_header_that_is_there_is_not_asked_for(downloads: list[Download]) -> None:
    """The ranges begin behind what an earlier pull has left."""
    downloads[0].partial.note(0, HEADER + 7)
    assert downloads[0].ranges(HEADER)[0] == (HEADER + 7, HEADER + 7 + RANGE)
