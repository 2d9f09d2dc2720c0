"""Leases: one holder, expiry by silence, and no hand on what is another's."""

import os
import threading

import pytest

from scaling import Store
from scaling import leases as module
from scaling.leases import Leases, Lost

SEGMENT = "0123456789abcdef"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["local", "other"])
def kind(request, monkeypatch):
    if request.param == "other":
        monkeypatch.setattr(module, "is_local", lambda path: False)
    return request.param


@pytest.fixture
def worker(tmp_path, kind):
    """Makes workers that share a clock; their pulses move only when told."""
    clock = Clock()
    store = Store.at(tmp_path)
    for name in ("leases", "workers"):
        (tmp_path / name).mkdir()

    def make(seconds: float = 60.0) -> Leases:
        return Leases(store, seconds, clock=clock)

    make.clock = clock
    return make


def pulse(leases: Leases, count: int) -> None:
    (leases.workers / leases.owner).write_text(str(count))


def files(leases: Leases) -> list[str]:
    return [file.name for file in leases.folder.iterdir()]


def at_once(calls) -> list:
    """Returns what functions give that start together, each in a thread."""
    gate, given = threading.Barrier(len(calls)), [None] * len(calls)

    def go(index, call):
        gate.wait()
        given[index] = call()

    threads = [threading.Thread(target=go, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return given


def test_a_lease_has_one_holder_and_is_free_again_after_release(worker):
    first, second = worker(), worker()
    assert first.claim(SEGMENT)
    assert not second.claim(SEGMENT) and not worker().claim(SEGMENT)
    assert second.holder(SEGMENT) == (first.owner, 60.0)
    first.release()
    assert files(first) == []
    assert second.claim(SEGMENT)


@pytest.mark.parametrize("kind", ["local"], indirect=True)
def test_of_many_who_claim_at_once_one_wins_free_or_stale(worker):
    for _ in range(10):
        many = [worker() for _ in range(8)]
        assert sum(at_once([lambda w=w: w.claim(SEGMENT) for w in many])) == 1
        next(w for w in many if w.held).release()
        dead, many = worker(), [worker() for _ in range(8)]
        assert dead.claim(SEGMENT)
        assert not any(w.claim(SEGMENT) for w in many)
        worker.clock.now += 61
        assert sum(at_once([lambda w=w: w.claim(SEGMENT) for w in many])) == 1
        winner = next(w for w in many if w.held)
        assert winner.holder(SEGMENT)[0] == winner.owner
        winner.release()
        assert files(dead) == []


def test_a_lease_is_stale_when_its_owner_has_been_silent_for_its_own_term(worker):
    owner, other = worker(seconds=10), worker(seconds=1)
    assert owner.claim(SEGMENT)
    pulse(owner, 0)
    for count in range(1, 5):
        assert not other.claim(SEGMENT)
        worker.clock.now += 9
        assert not other.claim(SEGMENT)
        pulse(owner, count)
        worker.clock.now += 9
    # The last pulse is seen now; the term counts from here, by the clock of who looks on.
    assert not other.claim(SEGMENT)
    worker.clock.now += 10
    assert not other.claim(SEGMENT)
    worker.clock.now += 1
    assert other.claim(SEGMENT)
    assert not (owner.workers / owner.owner).exists()


def test_who_lost_a_lease_learns_it_and_does_not_remove_the_others(worker):
    slow, other = worker(seconds=10), worker()
    assert slow.claim(SEGMENT)
    slow.check()
    assert not other.claim(SEGMENT)
    worker.clock.now += 11
    assert other.claim(SEGMENT)
    with pytest.raises(Lost, match=SEGMENT):
        slow.check()
    slow.release()
    assert not slow.remove(SEGMENT, slow.owner)
    assert other.holder(SEGMENT) == (other.owner, 60.0)
    other.check()


@pytest.mark.parametrize("kind", ["local"], indirect=True)
def test_a_lease_whose_writer_died_before_the_first_byte_goes_stale_too(worker):
    other = worker(seconds=10)
    (other.folder / SEGMENT).write_text("")
    assert not other.claim(SEGMENT)
    worker.clock.now += 11
    assert other.claim(SEGMENT)


def test_a_lease_left_on_a_finished_segment_is_cleared_with_its_owners_pulse(worker):
    dead, other = worker(), worker()
    assert dead.claim(SEGMENT)
    pulse(dead, 3)
    other.clear(SEGMENT)
    other.clear(SEGMENT)
    assert files(other) == [] and not (dead.workers / dead.owner).exists()


def test_a_worker_has_a_pulse_while_it_lives_and_leaves_nothing(tmp_path, kind):
    with Leases(Store.at(tmp_path), seconds=0.02) as leases:
        assert leases.claim(SEGMENT)
        file, seen = leases.workers / leases.owner, set()
        while len(seen) < 3:
            seen.add(file.read_text())
        assert files(leases) == [SEGMENT]
    assert files(leases) == [] and not file.exists() and not leases.thread.is_alive()


@pytest.mark.parametrize("kind", ["local"], indirect=True)
@pytest.mark.parametrize("text", ["../../segments 60", "x inf", "x nan", "x -1", "{garbage", "x y"])
def test_a_lease_that_says_nonsense_belongs_to_nobody_and_goes_stale(text, worker, tmp_path):
    (tmp_path / "segments").write_text("kept")
    other = worker(seconds=10)
    (other.folder / SEGMENT).write_text(text)
    assert other.holder(SEGMENT) == ("", 10)
    assert not other.claim(SEGMENT)
    worker.clock.now += 11
    assert other.claim(SEGMENT)
    assert (tmp_path / "segments").read_text() == "kept"


def test_a_worker_of_this_machine_that_is_dead_gives_way_at_once(tmp_path):
    store = Store.at(tmp_path)
    with Leases(store) as dead, Leases(store) as other:
        assert dead.claim(SEGMENT) and other.lives(dead.owner)
        assert not other.claim(SEGMENT)
        dead.ended.set()
        dead.thread.join()
        os.close(dead.pulse)  # As the kernel does when a process ends.
        dead.pulse = None
        assert other.lives(dead.owner) is False and other.claim(SEGMENT)
        assert not (other.workers / dead.owner).exists()
        with pytest.raises(Lost):
            dead.check(now=True)


def test_what_dead_workers_left_is_cleared_by_the_next(tmp_path):
    store = Store.at(tmp_path)
    dead = Leases(store)
    dead.folder.mkdir()
    dead.workers.mkdir()
    dead.raise_pulse(0)
    assert dead.claim(SEGMENT)
    os.close(dead.pulse)
    with Leases(store) as next_one:
        assert files(next_one) == []
        assert {f.name for f in next_one.workers.iterdir()} == {".lock", next_one.owner}
