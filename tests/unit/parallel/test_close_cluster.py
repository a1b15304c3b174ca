"""A cluster is closed also where one of its submit commands ends meanwhile."""

from __future__ import annotations

from distributed import Status

from espnet3.parallel.parallel import close_cluster


class StandInCluster:
    """A stand-in that closes as Dask's SpecCluster does: an error leaves it closing."""

    def __init__(self) -> None:
        self.status = Status.running
        self.jobs = ["queued"]

    def close(self) -> None:
        assert self.status != Status.closing, "Dask would wait for ever"
        self.status = Status.closing
        if self.jobs:
            self.jobs.pop()
            raise RuntimeError("sbatch was ended by SIGINT")
        self.status = Status.closed


def test_an_error_while_closing_is_not_the_end_of_it() -> None:
    cluster = StandInCluster()
    close_cluster(cluster)
    assert (cluster.status, cluster.jobs) == (Status.closed, [])
