"""Methods times seeds, a run for each core, into one result file: what every experiment of this folder does."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed
from tqdm.auto import tqdm

import experiments
import gmlvm
from gmlvm.records import write_record

#: From a seed to figures that JSON can hold.
Method = Callable[[int], dict[str, Any]]


def main(module: str, settings: dict[str, Any], methods: Mapping[str, Method], seeds: Sequence[int]) -> None:
    """Run the methods and seeds, as many at a time as there are cores, and write the file.

    Finished runs are kept in a file beside it, with the ending ``.partial``, until all are done: the same command of
    the same code goes on where it stopped.

    Args:
        module: Name of the experiment's module, for the command that the file names.
        settings: What all runs share.
        methods: What is run for each seed, by name.
        seeds: The seeds, if the command names no others.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description="run an experiment, write a result file")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds), help="seeds to run (default: %(default)s)")
    parser.add_argument("--methods", choices=methods, nargs="+", default=list(methods), help="methods (default: all)")
    parser.add_argument("--jobs", type=int, default=-1, help="runs at a time (default: one for each core)")
    arguments = parser.parse_args()
    if not arguments.output.parent.is_dir():
        parser.error(f"no folder {arguments.output.parent} to write {arguments.output.name} to")
    command = f"python -m {module} --output {arguments.output.as_posix()} --seeds "
    command += " ".join(map(str, arguments.seeds))
    if arguments.methods != list(methods):
        command += " --methods " + " ".join(arguments.methods)
    part = arguments.output.with_suffix(".partial")
    begun = [command, repr(settings), torch.__version__, _digest_of_code()]
    lines = [json.loads(line) for line in part.read_text().splitlines()] if part.exists() else [begun]
    if lines[0] != begun:
        parser.error(f"{part} was begun by another command, code or torch: finish it with that, or delete it")
    figures = {(name, seed): result for name, seed, result in lines[1:]}
    tasks = [(name, seed) for seed in arguments.seeds for name in arguments.methods if (name, seed) not in figures]
    calls = (delayed(_run)(methods[name], seed) for name, seed in tasks)
    results = Parallel(n_jobs=arguments.jobs, return_as="generator")(calls)
    with part.open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        for (name, seed), result in zip(tasks, tqdm(results, total=len(tasks), unit="run"), strict=True):
            figures[name, seed] = result
            file.write(json.dumps([name, seed, result]) + "\n")
            file.flush()
    runs = [{"seed": seed, **{name: figures[name, seed] for name in arguments.methods}} for seed in arguments.seeds]
    write_record(arguments.output, command, {"settings": settings, "runs": runs})
    part.unlink()


def _digest_of_code() -> str:
    """A few digits that differ if any file of the library or of the experiments does."""
    content = hashlib.sha256()
    for package in (gmlvm, experiments):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            content.update(path.read_bytes())
    return content.hexdigest()[:12]


def _run(method: Method, seed: int) -> dict[str, Any]:
    """Run a method on one thread: a run for each core is faster than one run on all of them."""
    torch.set_num_threads(1)
    return method(seed)
