"""Trials as jobs of SLURM, by submitit."""

from collections.abc import Generator, Mapping
from typing import Any

from pipeline.errors import ParamsError, PipelineError, reason
from pipeline.sweeps.pool import Resources, Task, attempt

MINUTES = 24 * 60  # that a job may take before SLURM ends it; it is then submitted again, from its checkpoint


class Job:
    """A task as submitit calls it; SLURM may end it before its time, and it is submitted again."""

    def __init__(self, label: str, task: Task) -> None:
        self.label, self.task = label, task

    def __call__(self) -> Any:
        """Return the result of the task, or the PipelineError of an error that the user can act on."""
        return attempt(self.label, self.task)

    def checkpoint(self) -> Any:
        """Return the job to submit in the place of this one."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def outcomes(tasks: Mapping[str, Task], resources: Resources) -> Generator[tuple[str, Any], None, None]:
    """Run tasks by label, each as a job; yield label and result, or PipelineError, as they end.

    ``resources.address`` is a partition, by default that of the site; ``local`` runs the jobs as processes of this machine. The
    machines must see the repository and the environment under the same paths. What jobs say is in the folder ``jobs``.

    Raises ParamsError where submitit is not installed or there is no SLURM, PipelineError where SLURM refuses the jobs.
    """
    try:
        import submitit
    except ImportError as error:
        cure = "`make slurm` installs what --backend slurm needs, or: pip install 'latent-pipeline[slurm]'"
        raise ParamsError(f"{error}; {cure}") from None
    is_local = resources.address == "local"
    try:
        executor = submitit.AutoExecutor(resources.folder / "jobs", cluster="local" if is_local else "slurm")
    except RuntimeError as error:
        raise ParamsError(f"{error}; --address local runs the jobs on this machine") from None
    executor.update_parameters(timeout_min=MINUTES, cpus_per_task=resources.cpus, gpus_per_node=resources.gpus, name="latent")
    if resources.address and not is_local:
        executor.update_parameters(slurm_partition=resources.address)
    try:
        with executor.batch():
            jobs = {label: executor.submit(Job(label, task)) for label, task in tasks.items()}
    except submitit.core.utils.FailedJobError as error:
        raise PipelineError(f"SLURM refuses the jobs ({reason(error)}); --address names a partition that takes them") from None
    waiting = {job: label for label, job in jobs.items()}
    try:
        for job in submitit.helpers.as_completed([*waiting], poll_frequency=1):
            label = waiting.pop(job)
            lost = job.exception()
            said = str(lost).strip().splitlines() or [type(lost).__name__]
            yield label, PipelineError(f"{label}: {said[-1]}; see {job.paths.stderr}") if lost else job.result()
    finally:
        for job in waiting:
            job.cancel()
