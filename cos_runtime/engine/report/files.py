"""Where the reports of a job lie."""

from dataclasses import dataclass

from cos_runtime import storage


@dataclass(frozen=True)
class ReportFiles:
    """The paths of a job's reports, beside its model.

    Attributes:
        folder: path or URL of the model's folder.
    """

    folder: str

    @property
    def log(self) -> str:
        """Caffe's lines, as :class:`~cos_runtime.engine.report.caffe_log.CaffeLog` writes them."""
        return self._at("train.log")

    @property
    def metrics(self) -> str:
        """One JSON object a line, as :class:`~cos_runtime.engine.report.metrics_file.MetricsFile` writes them."""
        return self._at("metrics.jsonl")

    @property
    def tensorboard(self) -> str:
        """The folder for ``tensorboard --logdir``."""
        return self._at("tensorboard")

    def _at(self, name: str) -> str:
        return storage.resolve(name, self.folder)
