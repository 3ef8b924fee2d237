"""Methods times seeds, a run for each core, into one result file: what every experiment of this folder does."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import filelock
import torch
from joblib import Parallel, delayed
from tqdm.auto import tqdm

import experiments
import gmlvm
from experiments import partial
from gmlvm.identity import differences, digest
from gmlvm_book.records import to_json, versions, write_record

#: From a seed to figures that JSON can hold.
Method = Callable[[int], dict[str, Any]]
#: One run: the name of a method, and a seed.
Task = tuple[str, int]


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Args:
        task: The run.
        figures: What it found, as JSON; empty if it failed.
        reason: Why it failed, in a line; empty if it did not.
        details: The traceback of the failure.
    """

    task: Task
    figures: str = ""
    reason: str = ""
    details: str = ""


def main(module: str, settings: dict[str, Any], methods: Mapping[str, Method], seeds: Sequence[int]) -> None:
    """Run the methods and seeds, as many at a time as there are cores, and write the file.

    Finished runs are kept in a file beside it, with the ending ``.partial``, until all are done. A command goes on
    where one with the same settings, code and versions stopped, be it with other seeds or methods.

    Args:
        module: Name of the experiment's module, for the command that the file names.
        settings: What all runs share, as JSON values.
        methods: What is run for each seed, by name.
        seeds: The seeds, if the command names no others.

    Raises:
        SystemExit: If the command cannot begin, with the reason.
        RuntimeError: If runs failed, after all others were done: those are kept.
    """
    parser, arguments = _parse(module, methods, seeds)
    output = arguments.output.resolve()
    part = output.with_name(output.name + ".partial")
    identity = {"command": f"python -m {module}", "settings": json.loads(to_json(settings)), **CODE}
    tasks = [(name, seed) for seed in arguments.seeds for name in arguments.methods]
    with _alone(output, parser):
        try:
            runs, notes = partial.read(part, identity)
        except ValueError as error:
            parser.error(f"{error}; finish what was begun as it was begun, or delete the file")
        missing = [task for task in tasks if task not in runs]
        _announce(part, notes, [task for task in tasks if task in runs], missing)
        partial.write(part, identity, runs)
        calls = [(methods[name], (name, seed)) for name, seed in missing]
        outcomes = _on_cluster(arguments.dask, calls) if arguments.dask else _here(arguments.jobs, calls)
        failures = []
        with part.open("a", encoding="utf-8", newline="\n") as file:
            for outcome in tqdm(outcomes, total=len(calls), unit="run"):
                if outcome.reason:
                    failures.append(f"{_names([outcome.task])}: {outcome.reason}")
                    print(f"{outcome.details}{failures[-1]}", file=sys.stderr, flush=True)
                else:
                    runs[outcome.task] = json.loads(outcome.figures)
                    partial.append(file, identity, outcome.task, runs[outcome.task])
        if failures:
            raise RuntimeError(
                f"{len(failures)} of {len(calls)} runs failed, the rest is in {part}; {'; '.join(failures)}"
            )
        table = [{"seed": seed, **{name: runs[name, seed] for name in arguments.methods}} for seed in arguments.seeds]
        write_record(output, _command(module, arguments, methods), {"settings": settings, "runs": table})
        if set(runs) <= set(tasks):
            part.unlink()
        else:
            print(f"{part} stays, for the runs in it that were not asked for")


def _parse(
    module: str, methods: Mapping[str, Method], seeds: Sequence[int]
) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command's arguments, checked before any work."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description="run an experiment, write a result file")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds), help="seeds to run (default: %(default)s)")
    known = "; ".join(methods)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["*"],
        metavar="METHOD",
        help=f"names, or patterns of names as a shell has them, of {known} (default: all)".replace("%", "%%"),
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--jobs", type=int, default=-1, help="runs at a time (default: one for each core)")
    place.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="run on the Dask cluster with this scheduler, such as tcp://host:8786; start it and its workers in the "
        "root of this repository: PYTHONPATH=. dask scheduler, PYTHONPATH=. dask worker --nthreads 1 ADDRESS",
    )
    arguments = parser.parse_args()
    if not arguments.output.parent.is_dir():
        parser.error(f"no folder {arguments.output.parent} to write {arguments.output.name} to")
    if arguments.output.is_dir():
        parser.error(f"--output must be a file, {arguments.output} is a folder")
    arguments.asked, arguments.methods = arguments.methods, []
    for pattern in arguments.asked:
        named = [name for name in methods if fnmatchcase(name, pattern)]
        if not named:
            parser.error(f"--methods must be of {known}; got {pattern}")
        arguments.methods += named
    for name in ("seeds", "methods"):
        values = getattr(arguments, name)
        if len(set(values)) < len(values):
            parser.error(f"--{name} must differ from each other, got {' '.join(map(str, values))}")
    if arguments.dask and find_spec("distributed") is None:
        parser.error('--dask needs Dask: pip install "dask[distributed]"')
    return parser, arguments


def _command(module: str, arguments: argparse.Namespace, methods: Mapping[str, Method]) -> str:
    """The command that makes the file again."""
    command = f"python -m {module} --output {arguments.output.as_posix()} --seeds {' '.join(map(str, arguments.seeds))}"
    if arguments.methods != list(methods):
        command += " --methods " + shlex.join(arguments.asked)
    return command + (f" --dask {arguments.dask}" if arguments.dask else "")


@contextmanager
def _alone(output: Path, parser: argparse.ArgumentParser) -> Iterator[None]:
    """Only one command at a time writes a file; the system frees the lock of one that is killed."""
    lock = filelock.FileLock(f"{output}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        parser.error(f"another command is at work on {output}: wait for it, or name another file")
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps files that are open
            Path(lock.lock_file).unlink()
        lock.release()


def _announce(part: Path, notes: list[str], present: list[Task], missing: list[Task]) -> None:
    """Say what is done, what is not, and why not."""
    for note in notes:
        print(f"{part}: {note}; a run on it counts as not done")
    if present:
        print(f"{part}: there already, and skipped: {_names(present)}")
    print(f"to do: {_names(missing) or 'nothing'}", flush=True)


def _names(tasks: Iterable[Task]) -> str:
    """Runs in words, the seeds of a method together."""
    seeds: dict[str, list[str]] = {}
    for name, seed in tasks:
        seeds.setdefault(name, []).append(str(seed))
    return ", ".join(f"{name!r} with seed{'s' * (len(own) > 1)} {' '.join(own)}" for name, own in seeds.items())


def _here(jobs: int, calls: list[tuple[Method, Task]]) -> Iterator[Outcome]:
    """Runs on this machine's cores, in the order in which they end."""
    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
    outcomes: Iterator[Outcome] = parallel(delayed(_run)(method, task, CODE) for method, task in calls)
    return outcomes


def _on_cluster(address: str, calls: list[tuple[Method, Task]]) -> Iterator[Outcome]:
    """Runs on a Dask cluster, in the order in which they end.

    Not by joblib's backend for Dask: that waits for ever for a run whose workers died, or that could not be sent.
    """
    import distributed

    with distributed.Client(address) as client:
        tasks = {client.submit(_run, method, task, CODE, pure=False): task for method, task in calls}
        for future in distributed.as_completed(tasks):
            try:
                outcome = future.result()
            except Exception as error:
                outcome = _failed(tasks[future], error)
            yield outcome


def _run(method: Method, task: Task, code: dict[str, str]) -> Outcome:
    """Run a method on one thread: a run for each core is faster than one run on all of them."""
    with _PROCESS:
        torch.set_num_threads(1)
        try:
            if code != CODE:
                raise RuntimeError(f"the worker has other code or versions ({differences(code, CODE)})")
            return Outcome(task, to_json(method(task[1])))
        except Exception as error:
            return _failed(task, error)


def _failed(task: Task, error: Exception) -> Outcome:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Outcome(task, reason=reason, details="".join(traceback.format_exception(error)))


def _digest_of_code() -> str:
    content = []
    for package in (gmlvm, experiments):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            content += [f"\n{package.__name__} {path.relative_to(root).as_posix()}\n".encode(), path.read_bytes()]
    return digest(*content)


#: The code that this process has imported, looked at as it does: the files may change under a run that takes hours.
CODE = {"code": _digest_of_code(), **versions()}
#: A process makes one run at a time, also where Dask gives it several threads: torch's global generators are its own.
_PROCESS = threading.Lock()
