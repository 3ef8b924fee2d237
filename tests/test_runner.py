"""A command that runs methods times seeds loses no finished run and trusts no damaged one, whatever stops it."""

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import distributed
import pytest

from experiments import partial, runner
from gmlvm_book.records import read_record

ROOT = Path(__file__).parents[1]
SETTINGS = {"a": 1}


def square(seed):
    return {"value": seed**2, "third": seed / 3}


def squares(*seeds):
    """The runs that a record must hold, computed here."""
    return [{"seed": seed, "square": {"value": seed**2, "third": seed / 3}} for seed in seeds]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.json"


@pytest.fixture
def part(tmp_path):
    return tmp_path / "out.json.partial"


@pytest.fixture
def command(path, monkeypatch):
    """Run methods by name for seeds 0 to 3, in this process unless the options say otherwise."""

    def run(methods, *options, settings=SETTINGS):
        options = options if "--dask" in options else (*options, "--jobs", "1")
        monkeypatch.setattr(sys, "argv", ["x", "--output", str(path), *map(str, options)])
        runner.main("experiments.x", settings, methods, range(4))

    return run


@pytest.fixture
def stopped(command, part):
    """What a command leaves that was stopped in its run with seed 3, after those with seeds 0 to 2."""

    def method(seed):
        if seed == 3:
            raise KeyboardInterrupt
        return square(seed)

    with pytest.raises(KeyboardInterrupt):
        command({"square": method})
    return part.read_bytes()


def recorder(calls):
    """The method, which also notes the seeds it is called with."""

    def method(seed):
        calls.append(seed)
        return square(seed)

    return method


class TestWhatIsThereAlready:
    def test_is_not_run_again_and_the_command_says_so(self, command, path, part, stopped, capsys):
        calls = []
        capsys.readouterr()
        command({"square": recorder(calls)})
        assert calls == [3]
        assert read_record(path)["runs"] == squares(0, 1, 2, 3)
        assert capsys.readouterr().out.splitlines() == [
            f"{part}: there already, and skipped: 'square' with seeds 0 1 2",
            "to do: 'square' with seed 3",
        ]
        assert list(path.parent.iterdir()) == [path]

    def test_serves_a_command_with_other_seeds_and_more_methods(self, command, path, stopped):
        calls = []
        command({"square": recorder(calls), "half": lambda seed: {"half": seed / 2}}, "--seeds", 2, 7)
        assert calls == [7]
        halves = ({"half": {"half": 1.0}}, {"half": {"half": 3.5}})
        assert read_record(path)["runs"] == [run | half for run, half in zip(squares(2, 7), halves, strict=True)]

    def test_stays_if_the_command_did_not_ask_for_it(self, command, path, part, stopped, capsys):
        command({"square": square}, "--seeds", 1)
        assert read_record(path)["runs"] == squares(1)
        assert part.read_bytes() == stopped
        assert "stays, for the runs in it that were not asked for" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("settings", "code", "difference"),
        [
            ({"a": 2}, {}, r"settings a: 1 there, 2 here"),
            ({"a": 1}, {"code": "another"}, r"code: \w{16} there, another here"),
            ({"a": 1}, {"torch": "1.0"}, r"torch: \S+ there, 1\.0 here"),
        ],
    )
    def test_is_refused_by_other_settings_code_or_versions(
        self, command, part, stopped, settings, code, difference, monkeypatch, capsys
    ):
        monkeypatch.setattr(runner, "CODE", {**runner.CODE, **code})
        with pytest.raises(SystemExit):
            command({"square": square}, settings=settings)
        assert re.search(rf"was begun by another .*\({difference}\)", capsys.readouterr().err)
        assert part.read_bytes() == stopped


class TestMethods:
    METHODS = dict.fromkeys(("long, warm", "long, cold", "short, cold"), square)

    @pytest.mark.parametrize(
        ("asked", "named"),
        [
            (("short, cold",), [2]),
            (("*, cold", "long, warm"), [1, 2, 0]),
            (("long*",), [0, 1]),
            (("*",), [0, 1, 2]),
        ],
    )
    def test_are_named_or_matched(self, command, path, asked, named):
        command(self.METHODS, "--seeds", 0, "--methods", *asked)
        record = read_record(path)
        assert list(record["runs"][0]) == ["seed", *(list(self.METHODS)[place] for place in named)]
        written = shlex.split(record["command"])
        assert ("--methods" in written) == (asked != ("*",))
        assert written[-len(asked) :] == list(asked) or asked == ("*",)

    @pytest.mark.parametrize(
        ("asked", "reason"),
        [
            (("tepid",), r"--methods must be of long, warm; long, cold; short, cold; got tepid"),
            (("long, cold", "*cold"), r"--methods must differ from each other"),
        ],
    )
    def test_that_are_not_there_or_come_twice_are_refused(self, command, path, asked, reason, capsys):
        with pytest.raises(SystemExit):
            command(self.METHODS, "--methods", *asked)
        assert re.search(reason, capsys.readouterr().err)
        assert not path.exists()


class TestADamagedFile:
    @pytest.fixture(autouse=True)
    def _short_identity(self, monkeypatch):
        monkeypatch.setattr(runner, "CODE", {"code": "12ab"})

    def test_cut_at_any_byte_gives_the_same_record(self, command, path, part, stopped):
        ends = [place for place, byte in enumerate(stopped, 1) if byte == ord("\n")]
        assert len(ends) == 4
        for length in range(len(stopped) + 1):
            part.write_bytes(stopped[:length])
            calls = []
            command({"square": recorder(calls)})
            assert read_record(path)["runs"] == squares(0, 1, 2, 3)
            # A line is trusted with the end of its line, and not before: a number may be cut and still be one.
            assert calls == list(range(max(sum(end <= length for end in ends) - 1, 0), 4))

    def test_with_any_byte_changed_loses_the_lines_it_is_in_and_no_other(self, stopped, part):
        identity = {"command": "python -m experiments.x", "settings": SETTINGS, "code": "12ab"}
        whole, notes = partial.read(part, identity)
        assert whole == {("square", seed): square(seed) for seed in (0, 1, 2)}
        assert notes == []
        for place in range(len(stopped)):
            damaged = bytearray(stopped)
            damaged[place] ^= 1
            part.write_bytes(damaged)
            runs, notes = partial.read(part, identity)
            number = stopped[:place].count(b"\n") + 1
            lost = {number, number + 1} if stopped[place] == ord("\n") else {number}
            assert runs == {("square", seed): square(seed) for seed in (0, 1, 2) if seed + 2 not in lost}
            assert notes

    def test_is_spoken_of_and_its_runs_are_repeated(self, command, path, part, stopped, capsys):
        lines = stopped.splitlines(keepends=True)
        lines[2] = lines[2].replace(b'"value": 1', b'"value": 7')
        part.write_bytes(b"".join(lines)[:-1])
        calls = []
        capsys.readouterr()
        command({"square": recorder(calls)})
        assert calls == [1, 2, 3]
        assert read_record(path)["runs"] == squares(0, 1, 2, 3)
        assert capsys.readouterr().out.splitlines() == [
            f"{part}: line 3 is damaged and not trusted; a run on it counts as not done",
            f"{part}: line 4 was cut short and is not trusted; a run on it counts as not done",
            f"{part}: there already, and skipped: 'square' with seed 0",
            "to do: 'square' with seeds 1 2 3",
        ]

    def test_does_not_lend_lines_to_another_command(self, command, part, stopped):
        lines = stopped.splitlines(keepends=True)
        part.write_bytes(b"damaged\n" + b"".join(lines[1:]))
        calls = []
        command({"square": recorder(calls)}, settings={"a": 2})
        assert calls == [0, 1, 2, 3]


# A process that has imported what a command needs, and forks one for each line that it reads. What the command and its
# workers print goes to a file, since this process answers on its own output.
FORKS = """
import os, sys, time
from experiments import runner

def square(seed):
    time.sleep(0.01)
    return {"value": seed**2, "third": seed / 3}

for line in sys.stdin:
    child = os.fork()
    if not child:
        output, jobs = line.split()
        os.dup2(os.open(output + ".said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        sys.argv = ["x", "--output", output, "--jobs", jobs]
        runner.main("experiments.x", {"a": 1}, {"square": square}, range(100))
        break
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    with subprocess.Popen(
        [sys.executable, "-c", FORKS],
        cwd=tmp_path_factory.mktemp("forks"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        os.killpg(process.pid, signal.SIGKILL)  # also workers, which outlive a killed command for minutes


class TestACommandOfItsOwnProcess:
    @staticmethod
    def begin(forks, path, jobs):
        forks.stdin.write(f"{path} {jobs}\n")
        forks.stdin.flush()
        return int(forks.stdout.readline())

    @staticmethod
    def kill(forks, command):
        os.kill(command, signal.SIGKILL)
        assert forks.stdout.readline() == "ended\n"

    def test_killed_at_any_instant_and_started_again_writes_what_one_does_that_was_not(self, forks, path, part):
        rng = random.Random(0)
        finished = 0
        for jobs in (*[1] * 20, 2):
            command = self.begin(forks, path, jobs)
            wait_for_lines(part, 1)
            time.sleep(rng.uniform(0, 0.1))
            self.kill(forks, command)
            before, finished = finished, part.read_bytes().count(b"\n") - 1
            assert finished >= before
            assert not path.exists()
        assert 0 < finished < 100
        self.begin(forks, path, 1)
        assert forks.stdout.readline() == "ended\n"
        assert read_record(path)["runs"] == squares(*range(100))
        todo = re.search("to do: 'square' with seeds (.*)", path.with_name("out.json.said").read_text()).group(1)
        assert len(todo.split()) == 100 - finished
        assert not part.exists()

    def test_keeps_a_second_one_off_its_file_until_it_is_gone(self, forks, command, path, part, capsys):
        first = self.begin(forks, path, 1)
        wait_for_lines(part, 1)
        os.kill(first, signal.SIGSTOP)
        before = part.read_bytes()
        with pytest.raises(SystemExit):
            command({"square": square})
        assert "another command is at work on" in capsys.readouterr().err
        assert part.read_bytes() == before
        self.kill(forks, first)
        command({"square": square})


def wait_for_lines(part, count):
    limit = time.monotonic() + 60
    while not part.exists() or part.read_bytes().count(b"\n") < count:
        assert time.monotonic() < limit, "the command does not begin"
        time.sleep(0.001)


class TestARunThatFails:
    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
            (lambda: float("nan"), "ValueError: figures must be JSON values, and numbers finite; got ['value'] = nan"),
            (lambda: 1j, "ValueError: figures must be JSON values, and numbers finite; got ['value'] = 1j"),
        ],
    )
    def test_is_named_and_the_others_are_kept(self, command, path, part, fault, reason):
        calls = []
        with pytest.raises(RuntimeError) as error:
            command({"square": recorder(calls), "bad": lambda seed: {"value": fault() if seed == 1 else seed}})
        assert str(error.value) == f"1 of 8 runs failed, the rest is in {part}; 'bad' with seed 1: {reason}"
        assert not path.exists()
        command({"square": recorder(calls), "bad": lambda seed: {"value": seed}})
        assert calls == [0, 1, 2, 3]
        assert read_record(path)["runs"] == [
            run | {"bad": {"value": seed}} for seed, run in enumerate(squares(0, 1, 2, 3))
        ]


class TestBeforeAnyWork:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--output", "missing/out.json"], "no folder missing to write out.json to"),
            (["--output", "."], "--output must be a file, . is a folder"),
            (["--output", "out.json", "--seeds", "3", "1", "3"], "--seeds must differ from each other, got 3 1 3"),
            (["--output", "out.json", "--jobs", "1", "--dask", "tcp://x:1"], "not allowed with argument --jobs"),
        ],
    )
    def test_options_are_looked_at(self, options, message, monkeypatch, tmp_path, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["x", *options])
        with pytest.raises(SystemExit):
            runner.main("experiments.x", SETTINGS, {"square": pytest.fail}, range(4))
        assert message in capsys.readouterr().err

    def test_settings_that_no_record_can_hold_are_refused(self, command):
        with pytest.raises(ValueError, match=r"got \['rate'\] = inf"):
            command({"square": pytest.fail}, settings={"rate": float("inf")})

    def test_a_missing_dask_is_named(self, command, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "distributed", None)
        with pytest.raises(SystemExit):
            command({"square": pytest.fail}, "--dask", "tcp://localhost:8786")
        assert 'pip install "dask[distributed]"' in capsys.readouterr().err


def test_a_worker_with_other_code_or_versions_is_refused():
    outcome = runner._run(pytest.fail, ("square", 1), {**runner.CODE, "torch": "1.0"})
    assert re.search(r"the worker has other code or versions \(torch: 1\.0 there, \S+ here\)", outcome.reason)


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


class TestACluster:
    def test_of_which_a_worker_is_killed_gives_every_run(self, command, path, tmp_path, cluster):
        grave = tmp_path / "grave"

        def method(seed):
            if seed == 2 and not grave.exists():
                grave.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return {"value": seed**2, "third": seed / 3}

        address = cluster.scheduler_address
        command({"square": method}, "--seeds", *range(8), "--dask", address)
        assert grave.exists()
        record = read_record(path)
        assert record["runs"] == squares(*range(8))
        assert record["command"].endswith(f"--seeds 0 1 2 3 4 5 6 7 --dask {address}")

    def test_names_a_run_that_no_worker_survives(self, command, cluster):
        cluster.scheduler.allowed_failures = 0  # the fourth death would be like the first
        fatal = {"fatal": lambda seed: os.kill(os.getpid(), signal.SIGKILL)}
        with pytest.raises(RuntimeError, match=r"1 of 1 runs failed.*'fatal' with seed 5: KilledWorker"):
            command(fatal, "--seeds", 5, "--dask", cluster.scheduler_address)
