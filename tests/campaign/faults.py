"""Fault-injection campaign: test that a fault loses no data and gives no wrong results.

python tests/campaign/faults.py                         # all cases
python tests/campaign/faults.py --quick                 # a few cases of each family, as in CI
python tests/campaign/faults.py --family kills --seed 1
python tests/campaign/faults.py --case kills/17         # one case; its directory is not removed

A case runs the scripts in processes of their own and checks what the docstring of its function
states.  The seed, the family and the number determine its random numbers, so a case can be
repeated; a signal sent at a random time may still hit another instruction.  The processes are
forked from this one, which has imported all modules, because importing torch takes seconds.
Mounting small disks requires root; without it those cases are skipped, as the table shows.
"""

import argparse
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: threads do not survive a fork

import input_cases
import interruption_cases
import numeric_cases
from cases import PROJECT, Case, CaseSkipped, CheckFailed
from reference_runs import prepare

MAX_SECONDS = 300  # per case; generous, because other processes may use the machine


class Family(NamedTuple):
    """The function that runs a case, the number of cases, and how many of them are quick."""

    run: Callable[[Case], None]
    cases: int
    quick: int


FAMILIES = {
    "bad values": Family(input_cases.run_bad_value, 330, 12),
    "images": Family(input_cases.run_image, 130, 6),
    "file names": Family(input_cases.run_file_name, 8, 3),
    "image folders": Family(input_cases.run_image_folder, 8, 1),
    "mask images": Family(input_cases.run_mask_image, 60, 4),
    "malicious checkpoints": Family(input_cases.run_malicious_checkpoint, 166, 6),
    "damaged checkpoints": Family(input_cases.run_damaged_checkpoint, 60, 4),
    "damaged completions": Family(interruption_cases.run_damaged_completion, 60, 3),
    "damaged trainings": Family(interruption_cases.run_damaged_training, 24, 2),
    "damaged caches": Family(interruption_cases.run_damaged_cache, 20, 2),
    "full disks": Family(interruption_cases.run_full_disk, 40, 4),
    "file size limits": Family(interruption_cases.run_file_size_limit, 10, 2),
    "read-only disks": Family(interruption_cases.run_read_only_disk, 10, 2),
    "signals": Family(interruption_cases.run_signal, 30, 2),
    "early signals": Family(interruption_cases.run_early_signal, 24, 3),
    "kills": Family(interruption_cases.run_kill, 100, 4),
    "kills at file changes": Family(interruption_cases.run_kill_at_change, 60, 4),
    "concurrent runs": Family(interruption_cases.run_concurrently, 12, 2),
    "divergence": Family(numeric_cases.run_divergence, 16, 1),
    "non-finite weights": Family(numeric_cases.run_nonfinite_weights, 40, 3),
    "non-finite z": Family(numeric_cases.run_nonfinite_z, 6, 1),
    "extreme searches": Family(numeric_cases.run_extreme_search, 24, 2),
    "batch sizes and threads": Family(numeric_cases.run_other_batches, 16, 2),
    "repeated searches": Family(numeric_cases.run_repeatedly, 6, 1),
}


class CaseResult(NamedTuple):
    family: str
    number: int
    seconds: float
    outcome: str  # passed, failed or skipped
    message: str


class Campaign:
    """Runs cases in parallel, each in a process and a directory of its own below `root`.

    Args:
        root: directory of the campaign.
        seed: seed of all cases.
        jobs: number of cases that run at the same time.
    """

    def __init__(self, root: Path, seed: int, jobs: int):
        self.root, self.seed, self.jobs = root, seed, jobs
        self.running: dict[int, tuple[str, int, float]] = {}  # pid -> family, number, start time

    def run(self, cases: Sequence[tuple[str, int]], keep: bool = False) -> Iterator[CaseResult]:
        """Yield the result of each (family, number) as it ends; `keep` keeps the directories."""
        waiting = list(cases)[::-1]
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.jobs:
                    self._start(*waiting.pop())
                time.sleep(0.01)
                for pid in list(self.running):
                    if result := self._poll(pid, keep):
                        yield result
        finally:
            for pid in self.running:
                os.killpg(pid, signal.SIGKILL)

    def directory(self, family: str, number: int) -> Path:
        return self.root / f"{family.replace(' ', '_')}_{number}"

    def _start(self, family: str, number: int) -> None:
        """Fork a process that runs the case and writes its outcome to result.json."""
        sys.stdout.flush()
        sys.stderr.flush()
        if pid := os.fork():
            self.running[pid] = family, number, time.perf_counter()
            return
        os.setpgid(0, 0)  # _poll kills the process group, with all scripts of the case
        directory, case = self.directory(family, number), None
        outcome, message = "passed", ""
        try:
            case = Case(family, number, self.seed, directory, self.root / "shared")
            (prepare if family == "prepare" else FAMILIES[family].run)(case)
        except CaseSkipped as reason:
            outcome, message = "skipped", str(reason)
        except CheckFailed as failure:
            outcome, message = "failed", str(failure)
        except BaseException:  # a bug of the campaign
            outcome, message = "failed", traceback.format_exc()
        if case and case.descriptions:
            message = f"{', '.join(case.descriptions)}: {message}"
        (directory / "result.json").write_text(json.dumps([outcome, message]))
        os._exit(0)

    def _poll(self, pid: int, keep: bool) -> CaseResult | None:
        """Return the result of a case that has ended or takes too long, and clean up after it."""
        family, number, start = self.running[pid]
        seconds = time.perf_counter() - start
        too_long = seconds > MAX_SECONDS and family != "prepare"
        if too_long:
            os.killpg(pid, signal.SIGKILL)
        if not os.waitpid(pid, 0 if too_long else os.WNOHANG)[0]:
            return None
        del self.running[pid]
        with suppress(ProcessLookupError):  # scripts that a failed case left running
            os.killpg(pid, signal.SIGKILL)
        directory = self.directory(family, number)
        result = directory / "result.json"
        outcome, message = "failed", f"not finished after {MAX_SECONDS} s"
        if result.exists():
            outcome, message = json.loads(result.read_text())
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in mounts:
            if mount.startswith(f"{directory}/"):
                subprocess.run(["umount", "-l", mount], check=True)
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
        return CaseResult(family, number, seconds, outcome, message)


def select_cases(args: argparse.Namespace) -> list[tuple[str, int]]:
    """Return the (family, number) pairs that the command line asks for."""
    if args.case:
        family, _, number = args.case.rpartition("/")
        if family not in FAMILIES or not number.isdecimal():
            sys.exit(
                f"error: --case {args.case}: expected <family>/<number>. "
                f"The families are {', '.join(FAMILIES)}"
            )
        return [(family, int(number))]
    if unknown := set(args.family or ()) - FAMILIES.keys():
        sys.exit(f"error: --family {min(unknown)}: choose one of {', '.join(FAMILIES)}")
    families = {name: f for name, f in FAMILIES.items() if name in (args.family or FAMILIES)}
    sizes = {name: f.quick if args.quick else f.cases for name, f in families.items()}
    cases = [(name, number) for name, size in sizes.items() for number in range(size)]
    return sorted(cases, key=lambda case: case[1])  # the first cases cover all families


def format_table(results: Sequence[CaseResult]) -> str:
    """Return a Markdown table with one row per family and one for all."""
    rows = ["| family | cases | passed | skipped | seconds |", "|---|---|---|---|---|"]
    for name in [*dict.fromkeys(result.family for result in results), "all"]:
        group = [result for result in results if name in (result.family, "all")]
        passed, skipped = (
            sum(result.outcome == outcome for result in group) for outcome in ("passed", "skipped")
        )
        seconds = sum(result.seconds for result in group)
        rows.append(f"| {name} | {len(group)} | {passed} | {skipped} | {seconds:.0f} |")
    return "\n".join(rows)


def run_and_report(
    campaign: Campaign, cases: list[tuple[str, int]], keep: bool, start: float
) -> int:
    """Run the cases, print failures and the table, and return the exit code."""
    (prepared,) = campaign.run([("prepare", 0)])
    if prepared.outcome != "passed":
        sys.exit(f"error: the reference runs failed: {prepared.message}")
    results = []
    try:
        for result in campaign.run(cases, keep):
            results.append(result)
            if result.outcome == "failed":
                case = f"{result.family}/{result.number}"
                command = f"python tests/campaign/faults.py --case '{case}' --seed {campaign.seed}"
                print(f"{command}\n  {result.message}", flush=True)
    except KeyboardInterrupt:
        print(f"interrupted after {len(results)} of {len(cases)} cases")
    print(format_table(results))
    for message in {result.message for result in results if result.outcome == "skipped"}:
        print(f"skipped: {message}")
    print(f"{time.perf_counter() - start:.0f} s with {campaign.jobs} jobs")
    if keep:
        print(campaign.root)
    failed = any(result.outcome == "failed" for result in results)
    return int(failed or len(results) < len(cases))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few cases of each family")
    parser.add_argument("--family", action="append", help="only this family; may be repeated")
    parser.add_argument("--case", help="only this case, such as kills/17; keeps its directory")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases in parallel")
    args = parser.parse_args()
    cases = select_cases(args)
    for script in ("train.py", "inpaint.py", "sample.py"):  # import the modules that they need
        runpy.run_path(str(PROJECT / script), run_name="imported")
    start = time.perf_counter()
    root = Path(tempfile.mkdtemp(prefix="faults_"))
    try:
        campaign = Campaign(root, args.seed, args.jobs)
        return run_and_report(campaign, cases, bool(args.case), start)
    finally:
        if not args.case:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
