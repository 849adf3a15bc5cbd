"""The tasks of the ablation. A task is one file; it registers itself in :data:`TASKS` beside its definition."""

from experiments.tasks.task import TASKS, Task, TaskScores  # isort: skip
from experiments.tasks import caption, easy_vqa, ve, vqa  # noqa: F401 (they register themselves)

__all__ = ["TASKS", "Task", "TaskScores"]
