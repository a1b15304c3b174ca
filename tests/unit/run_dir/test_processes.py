"""Who is busy with what, in one process."""

from __future__ import annotations

import pytest

from espnet3.run_dir.processes import busy_with, is_alive, is_busy, this_process


def test_one_of_two_that_are_busy_with_the_same_ends() -> None:
    """Two resumes in one notebook give their submission the same number; one is overtaken."""
    me = this_process()
    with busy_with("job"):
        with busy_with("job"):
            assert is_busy(me, "job")
        assert is_busy(me, "job")
    assert not is_busy(me, "job")


@pytest.mark.parametrize(
    ("seconds", "same"),
    [(0, True), (1, True), (-59, True), (0.02, False), (1.5, False), (3600, False)],
)
def test_a_process_is_known_again_where_its_hosts_clock_was_set(seconds: float, same: bool) -> None:
    """Since then all processes seem to have begun as many whole seconds earlier or later."""
    me = this_process()
    noted = me.model_copy(update={"started": me.started + seconds})
    assert is_alive(noted) is same
    with busy_with("job"):
        assert is_busy(noted, "job") is same
    assert is_busy(noted, "job") is False
