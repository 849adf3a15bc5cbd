"""What a model is asked: the tasks of the tables (:mod:`experiments.tasks.catalogue`), behind
:class:`experiments.tasks.task.Task`.
"""

from experiments.tasks import catalogue  # noqa: F401 (registers them)
from experiments.tasks.task import TASKS, Column, Task, TaskScores, register, tasks_named

__all__ = ["TASKS", "Column", "Task", "TaskScores", "register", "tasks_named"]
