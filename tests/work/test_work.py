"""The threads that work ahead, and how many there are."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mbuild.core.errors import CancelledError, UsageError
from mbuild.work.ahead import Ahead, Job, budget
from mbuild.work.cores import _quota, computing_on, cores, use_threads


class Boom(Exception):
    """What a job raises in these tests."""


def taken(ahead: Ahead[int], count: int) -> list[int]:
    """Every result, in order, each given back at once."""
    found = []
    for index in range(count):
        found.append(ahead.take(index))
        ahead.done(index)
    return found


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_results_come_in_order_on_any_number_of_threads(threads: int) -> None:
    """Jobs that end in any order are taken in theirs, by each of several consumers."""
    jobs = [Job(lambda n=n: (time.sleep((n * 7 % 5) / 2000), n)[1], 1) for n in range(60)]
    ahead: Ahead[int] = Ahead(jobs, threads, 16, consumers=3)
    found: dict[int, list[int]] = {}
    consumers = [
        threading.Thread(target=lambda c=c: found.update({c: taken(ahead, 60)})) for c in range(3)
    ]
    ahead.start()
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join(30)
    ahead.stop()
    assert found == {c: list(range(60)) for c in range(3)}


def test_no_more_is_held_than_the_budget() -> None:
    """The slowest consumer holds the work up; a job above the budget runs alone."""
    held, peak, lock = [0], [0], threading.Lock()

    def job(size: int) -> Job[int]:
        def run() -> int:
            with lock:
                held[0] += size
                peak[0] = max(peak[0], held[0])
            return size

        return Job(run, size)

    sizes = [3, 1, 4, 1, 5, 20, 2, 6, 5, 3] * 5
    ahead: Ahead[int] = Ahead([job(size) for size in sizes], 8, 10)
    ahead.start()
    for index, size in enumerate(sizes):
        assert ahead.take(index) == size
        time.sleep(0.001)
        with lock:
            held[0] -= size
        ahead.done(index)
    ahead.stop()
    assert peak[0] == 20


def test_a_job_that_fails_is_raised_while_others_run() -> None:
    """The error comes at once, the others may end by themselves, no further one begins."""
    release, begun = threading.Event(), []

    def slow() -> int:
        release.wait(30)
        return 0

    def fail() -> int:
        raise Boom

    jobs = [Job(slow, 1), Job(fail, 1), *(Job(lambda: begun.append(1) or 1, 1) for _ in range(50))]
    ahead: Ahead[int] = Ahead(jobs, 2, 10)
    ahead.start()
    started = time.monotonic()
    with pytest.raises(Boom):
        ahead.take(0)
    assert time.monotonic() - started < 10
    assert ahead.stopping
    release.set()
    ahead.stop()
    assert len(begun) < 50


def test_jobs_that_end_because_another_failed_do_not_hide_its_error() -> None:
    """What looks at ``stopping`` and gives up comes earlier in order, and later in time."""
    begun = threading.Event()

    def gives_up() -> int:
        begun.set()
        while not ahead.stopping:
            time.sleep(0.001)
        raise CancelledError("other work failed")

    def fail() -> int:
        begun.wait(30)
        raise Boom

    ahead: Ahead[int] = Ahead([Job(gives_up, 1), Job(fail, 1)], 2, 10)
    ahead.start()
    with pytest.raises(Boom):
        ahead.take(0)
    ahead.stop()
    with pytest.raises(Boom):
        ahead.take(1)


def test_who_takes_after_the_end_is_told_so() -> None:
    """A consumer that waits when the work is stopped is not left waiting."""
    ahead: Ahead[int] = Ahead([Job(lambda: time.sleep(0.05) or 1, 1)], 1, 10)
    ahead.stop()
    with pytest.raises(CancelledError):
        ahead.take(0)


def test_the_budget_grows_with_the_threads_and_not_without_bound() -> None:
    """Two jobs a thread, at most 52 MiB of them a thread; twice the largest in any case."""
    mib = 1 << 20
    assert budget(2, 8 * mib) == (16 + 32) * mib
    assert budget(16, 24 * mib) == (16 + 16 * 48) * mib
    assert budget(32, 500 * mib) == (16 + 32 * 52) * mib
    assert budget(1, 250 * mib) == (16 + 500) * mib
    assert budget(1, 400 * mib) == (16 + 600) * mib  # one of them, and what is small beside it
    assert budget(1, 4000 * mib) == (16 + 4000) * mib


def test_threads_are_what_was_asked_for_else_what_the_system_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """--threads, then MBUILD_THREADS, then the processors of this process."""
    monkeypatch.setenv("MBUILD_THREADS", "5")
    assert cores() == 5
    use_threads(3)
    assert cores() == 3
    use_threads(None)
    for wrong in ("many", "0", "-1", "1.5", "1e3", "4097", "9" * 5000, "²"):
        monkeypatch.setenv("MBUILD_THREADS", wrong)
        with pytest.raises(UsageError, match=f"MBUILD_THREADS='{wrong}' is not a number"):
            cores()
    monkeypatch.delenv("MBUILD_THREADS")
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 4})
        assert cores() in (1, 2, 3)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/docker/x", {"docker/x/cpu.max": "250000 100000"}, 3),
        ("0::/docker/x", {"docker/cpu.max": "100000 100000", "docker/x/cpu.max": "max 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 1 << 16),
        ("0::/gone", {}, 1 << 16),
        (
            "4:cpu,cpuacct:/a\n1:name=systemd:/a",
            {"cpu/a/cpu.cfs_quota_us": "150000", "cpu/a/cpu.cfs_period_us": "100000"},
            2,
        ),
        (
            "4:cpu:/a",
            {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
            1 << 16,
        ),
        ("0::/a", {"a/cpu.max": "100000 0"}, 1 << 16),
        ("0::/a", {"a/cpu.max": "1 100000"}, 1),
        ("0::/a", {"a/cpu.max": "-5 100000"}, 1),
        ("0::/a", {"a/cpu.max": "200000"}, 1 << 16),
        ("0::/a", {"a/cpu.max": "", "cpu.max": "200000 100000\n"}, 2),
        ("0::/a", {"a/cpu.max": "many 100000", "cpu.max": "200000 100000"}, 2),
        ("0::/a", {"a/cpu.max": "9" * 5000 + " 1"}, 1 << 16),
        ("4:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "5", "cpu/a/cpu.cfs_period_us": "0"}, 1 << 16),
        ("\nno group\n0::/a\n\n", {"a/cpu.max": "200000 100000"}, 2),
        ("0::/../../b", {"cpu.max": "200000 100000"}, 2),
        ("0::/a\0b", {"cpu.max": "200000 100000"}, 2),
        ("", {"cpu.max": "200000 100000"}, 1 << 16),
    ],
)
def test_the_quota_of_control_groups_counts(
    own: str, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    """Of the groups around the process the tightest limit, rounded up to whole processors."""
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    assert _quota(tmp_path / "groups", tmp_path / "own") == expected


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "3", 1 << 70])
def test_a_number_of_threads_is_one(wrong: Any) -> None:
    """Who asks from Python for none would otherwise wait for ever for the first result."""
    with pytest.raises(UsageError, match="is not a number of threads"), computing_on(wrong):
        pass
    with pytest.raises(UsageError, match=r"--threads .* is not a number of threads"):
        use_threads(wrong)
    assert cores() >= 1
    with computing_on(3):
        assert cores() == 3


def test_several_at_work_share_their_budgets() -> None:
    """While two are at work each holds half of what it may hold alone; then all of it again."""
    held: dict[str, set[int]] = {"one": set(), "other": set()}
    peak = dict.fromkeys(held, 0)

    def job(who: str, number: int) -> Job[int]:
        def run() -> int:
            held[who].add(number)
            peak[who] = max(peak[who], len(held[who]))
            return number

        return Job(run, 1)

    def use(who: str, ahead: Ahead[int]) -> None:
        for number in range(40):
            ahead.take(number)
            time.sleep(0.002)  # the jobs are faster
            held[who].discard(number)
            ahead.done(number)

    pair = {who: Ahead([job(who, n) for n in range(40)], 2, 8) for who in held}
    for ahead in pair.values():
        ahead.start()
    pair["one"].take(0)
    use("other", pair["other"])
    pair["other"].stop()
    assert peak["other"] <= 4 + 1
    peak["one"] = 0
    use("one", pair["one"])
    pair["one"].stop()
    assert 6 <= peak["one"] <= 8 + 1
