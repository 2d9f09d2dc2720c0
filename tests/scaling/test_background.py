"""Work beside training: one piece at a time, and no error is lost."""

import threading

import pytest

from scaling import background


def test_a_piece_of_work_is_waited_for_before_the_next():
    hold, done = threading.Event(), []
    background.start(lambda: (hold.wait(), done.append(1)))
    assert background.busy()
    background.check()  # It has not ended: nothing is raised, and nothing waited for.
    assert not done
    hold.set()
    background.start(lambda: done.append(2))
    assert done[0] == 1
    background.wait()
    assert done == [1, 2] and not background.busy()
    background.wait()


def fail():
    raise OSError("full")


@pytest.mark.parametrize("later", [background.wait, lambda: background.start(fail)])
def test_whoever_comes_next_is_told_of_an_error_once(later):
    background.start(fail)
    with pytest.raises(OSError, match="full"):
        later()
    background.wait()


def test_a_look_raises_the_error_of_what_has_ended():
    background.start(fail)
    background.CURRENT[0].thread.join()
    with pytest.raises(OSError, match="full"):
        background.check()
    background.check()
