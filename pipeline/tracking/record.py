"""The content of an MLflow run, as the store returns it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pipeline.tracking import logged_model
from pipeline.tracking.values import HEADLINE

if TYPE_CHECKING:
    import mlflow.entities


@dataclass(frozen=True)
class Record:
    """The content of a run in the store; ``metrics`` are the last values."""

    id: str
    name: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    has_data: bool
    model_id: str | None
    is_deleted: bool
    data_shape: tuple[int, ...] = ()  # [N, C, H, W] of the training images, empty where it is not known
    data_version: str = ""  # the digest of the data set

    @classmethod
    def of(cls, entity: mlflow.entities.Run) -> Self:
        """Return the record of an MLflow entity."""
        info, data = entity.info, entity.data
        models = entity.outputs.model_outputs if entity.outputs else []
        inputs = entity.inputs.dataset_inputs if entity.inputs else []
        model_id = models[-1].model_id if models else None
        deleted = info.lifecycle_stage == "deleted"
        about = data.params, data.tags, data.metrics, bool(inputs), model_id, deleted, *logged_model.data_of(inputs)
        return cls(info.run_id, info.run_name, info.status, *about)

    def number(self, key: str) -> float | None:
        """Return a number by its key in metrics files, under which runs of earlier versions hold it; None where there is none."""
        return self.metrics.get(HEADLINE.get(key, key), self.metrics.get(key))
