"""Who is busy with what, in one process."""

from __future__ import annotations

from espnet3.run_dir.processes import busy_with, is_busy, this_process


def test_one_of_two_that_are_busy_with_the_same_ends() -> None:
    """Two resumes in one notebook give their submission the same number; one is overtaken."""
    me = this_process()
    with busy_with("job"):
        with busy_with("job"):
            assert is_busy(me, "job")
        assert is_busy(me, "job")
    assert not is_busy(me, "job")
