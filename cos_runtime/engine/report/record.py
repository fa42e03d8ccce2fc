"""What of a job is told at its end."""

from cos_runtime.engine.report.events import (
    Event,
    JobFailed,
    JobFinished,
    JobStarted,
    Progress,
    RecordsSkipped,
    SnapshotSaved,
    TestPass,
    TrainStep,
)


class JobRecord:
    """Remembers the last event of each kind.

    Attributes:
        job: how the job started.
        first_iteration: where it started; a job that goes on after a failure started before that.
        iteration: how far it has come.
        step: the last displayed step.
        tests: the last pass of each test net.
        skipped: the damaged records of each rank.
        snapshot: the last snapshot.
        finished: how it ended.
    """

    def __init__(self) -> None:
        self.job: JobStarted | None = None
        self.first_iteration = 0
        self.iteration = 0
        self.step: TrainStep | None = None
        self.tests: dict[int, TestPass] = {}
        self.skipped: dict[int, RecordsSkipped] = {}
        self.snapshot: SnapshotSaved | None = None
        self.finished: JobFinished | None = None
        self._failed = False

    def emit(self, event: Event) -> None:
        """Take note of one event."""
        match event:
            case JobStarted():
                self._start(event)
            case Progress():
                self.iteration = event.iteration
            case TrainStep():
                self.iteration, self.step = event.iteration, event
            case TestPass():
                self.tests[event.net_index] = event
            case RecordsSkipped():
                self.skipped[event.rank] = event
            case SnapshotSaved():
                self.iteration = event.iteration
                # The final model has a line of its own.
                if self.job is None or event.path != self.job.model_path:
                    self.snapshot = event
            case JobFinished():
                self.iteration, self.finished = event.iteration, event
            case JobFailed():
                self._failed = True

    def _start(self, job: JobStarted) -> None:
        if not self._failed:
            self.first_iteration = job.iteration
        self.job, self.iteration, self._failed = job, job.iteration, False
