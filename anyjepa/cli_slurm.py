"""``anyjepa train ... --slurm``: the same training as a job of a cluster, which goes on by itself."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyjepa.cli import Parser, main, print_figures, show_result
from anyjepa.core.errors import UserError, require

# so long before its end a job is told to save and to queue again
GRACE = 120
MOST_REQUEUES = 10_000

FLAGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--slurm", {"action": "store_true", "help": "submit the training as a SLURM job, and return"}),
    ("--slurm-nodes", {"type": int, "default": 1, "metavar": "N", "help": "nodes (default 1)"}),
    ("--slurm-gpus", {"type": int, "default": 1, "metavar": "N",
                      "help": "GPUs of a node, a process each; 0 for one process on CPUs (default 1)"}),
    ("--slurm-cpus", {"type": int, "default": 8, "metavar": "N", "help": "cores of a process (default 8)"}),
    ("--slurm-memory", {"type": int, "metavar": "GB", "help": "of a node (default: the cluster's)"}),
    ("--slurm-hours", {"type": float, "default": 24.0, "metavar": "H",
                       "help": "length of one job; a longer training queues again and goes on (default 24)"}),
    ("--slurm-partition", {"metavar": "NAME", "help": "where to run (default: the cluster's)"}),
    ("--slurm-cluster", {"default": "slurm", "choices": ("slurm", "local"),
                         "help": "local runs the job on this machine, to try it"}),
)  # fmt: skip


def add_flags(parser: Parser) -> None:
    """The flags of a job, under a heading of their own."""
    group = parser.add_argument_group("on a SLURM cluster (needs anyjepa[slurm])")
    for flag, options in FLAGS:
        group.add_argument(flag, **options)


def submit(words: Sequence[str], options: argparse.Namespace, run: str) -> int:
    """Hand a training to the cluster.

    Args:
        words: of the command, after ``train``.
        options: as they were parsed.
        run: the run's folder.
    """
    path = Path(run).resolve()
    if (path / "config.yaml").exists() and not options.resume:
        raise UserError(f"{path} already holds a run: go on with --resume, or choose another --out.")
    submitit = require("submitit", "slurm")
    logs = path / "slurm"
    named = {f"{options.slurm_cluster}_max_num_timeout": MOST_REQUEUES}
    try:
        executor = submitit.AutoExecutor(str(logs), cluster=options.slurm_cluster, **named)
    except RuntimeError as problem:
        raise UserError(
            f"there is no SLURM here ({problem}): submit from a node of the cluster, or try the job on this "
            "machine with --slurm-cluster local."
        ) from None
    parameters: dict[str, Any] = {
        "name": f"anyjepa-{words[0]}", "nodes": options.slurm_nodes, "gpus_per_node": options.slurm_gpus,
        "tasks_per_node": max(1, options.slurm_gpus), "cpus_per_task": options.slurm_cpus,
        "timeout_min": max(1, round(60 * options.slurm_hours)), "slurm_signal_delay_s": GRACE,
    }  # fmt: skip
    parameters |= {"mem_gb": options.slurm_memory} if options.slurm_memory else {}
    parameters |= {"slurm_partition": options.slurm_partition} if options.slurm_partition else {}
    try:
        executor.update_parameters(**parameters)
        job = executor.submit(TrainingJob(_for_the_job(words, path), os.getcwd()))
    except (RuntimeError, ValueError, submitit.core.utils.FailedJobError) as problem:
        raise UserError(f"the job was not taken: {str(problem).splitlines()[0]}") from None
    result = {
        "job": str(job.job_id),
        "run": str(path),
        "log": str(job.paths.stderr),
        "out": str(job.paths.stdout),
    }

    def show(result: dict[str, Any]) -> None:
        print_figures(result)
        stop = "scancel" if options.slurm_cluster == "slurm" else "kill"
        print(f"\nnext: tail -f {result['log']}\n      {stop} {result['job']}")

    return show_result(options, result, show)


def _for_the_job(words: Sequence[str], path: Path) -> list[str]:
    """The same words without the job's own, and a folder that does not depend on where the job runs."""
    takes_value = {flag: "action" not in options for flag, options in FLAGS}
    takes_value |= {"--out": True, "--resume": False}
    kept, words = [], list(words)
    while words:
        word = words.pop(0)
        flag, equals, _ = word.partition("=")
        if flag not in takes_value:
            kept.append(word)
        elif takes_value[flag] and not equals:
            words.pop(0)
    return [*kept, "--out", str(path), "--resume"]


class TrainingJob:
    """What the cluster runs, in each process. It is stored by submitit and read back by it alone.

    Args:
        words: of the command, after ``train``; with ``--resume``, for it may be the second job.
        folder: where paths of the command begin.
    """

    def __init__(self, words: list[str], folder: str) -> None:
        self.words, self.folder = words, folder

    def __call__(self) -> int:
        """Train; on the cluster's word that time is up, save at the next step and queue again."""
        import submitit

        os.chdir(self.folder)
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        number = submitit.JobEnvironment._usr_sig()
        requeue: Any = signal.getsignal(number)
        passed_over, told = signal.getsignal(signal.SIGTERM), []

        def receive(_number: int, frame: Any) -> None:
            told.append(number)
            if signal.getsignal(signal.SIGTERM) == passed_over:
                # nothing is trained yet, so nothing is to be saved
                requeue(number, frame)
            else:
                signal.raise_signal(signal.SIGTERM)

        signal.signal(number, receive)
        code = main(["train", *self.words])
        sys.stdout.flush()
        if told and code == 128 + signal.SIGTERM:
            requeue(number, None)
        if code and not told:
            raise SystemExit(code)
        return code

    def checkpoint(self) -> Any:
        """What submitit queues next: the same, which goes on."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)
