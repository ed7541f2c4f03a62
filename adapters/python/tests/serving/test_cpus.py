"""Where the library's threads run if vLLM binds the thread that makes them."""

import os

import numpy
import pytest
import tokensieve
from tokensieve import _threads
from tokensieve.vllm import cpus


@pytest.mark.parametrize("name, value, expected", [
    ("GOMP_CPU_AFFINITY", "0 2 4", {0, 2, 4}), ("OMP_PLACES", "{3,5}", {3, 5}),
    ("KMP_AFFINITY", "granularity=fine,explicit,proclist=[1,10]", {1, 10}),
    ("OMP_PLACES", "cores", set()), ("OMP_PLACES", "{0:4}", set()),
    ("GOMP_CPU_AFFINITY", "0-3", set()), ("GOMP_CPU_AFFINITY", "", set())])
def test_lists_of_cpus(monkeypatch, name, value, expected):
    for other in cpus._LISTS:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    assert cpus.of_process() == expected


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
def test_threads_may_use_other_cpus_than_their_maker(monkeypatch):
    mine = os.sched_getaffinity(0)
    pool = _threads._Pool()
    monkeypatch.setattr(_threads, "pool", pool)
    monkeypatch.setattr("tokensieve._attend.pool", pool)
    pool.wanted = 3
    q = numpy.zeros((1, 256, 1, 16), numpy.float32)

    def masks():
        """Of the threads that a call makes."""
        before = set(os.listdir("/proc/self/task"))
        tokensieve.attention(q, q, q)
        return [os.sched_getaffinity(int(task))
                for task in set(os.listdir("/proc/self/task")) - before]
    os.sched_setaffinity(0, {min(mine)})
    try:
        assert masks() == [{min(mine)}] * 2
        pool.cpus, pool.size = frozenset(mine), 0
        assert masks() == [mine] * 2
        assert os.sched_getaffinity(0) == {min(mine)}
        pool.cpus, pool.size = frozenset({4095}), 0  # there is none
        assert masks() == [{min(mine)}] * 2
    finally:
        os.sched_setaffinity(0, mine)
