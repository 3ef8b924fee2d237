"""The memory of a process. What is imported here a new process imports, too."""

from benchmarks import memory


def test_memory_is_that_of_the_process_alone():
    before, after = memory.in_new_process(_held, 300_000_000)
    assert 0.2 < after - before < 0.4


def _held(count: int) -> tuple[float, float]:
    """The largest memory of a process before and after it holds so many bytes."""
    before = memory.peak_gigabytes()
    held = bytearray(count)
    held[::4096] = b"x" * len(held[::4096])
    return before, memory.peak_gigabytes()
