"""Tasks of the tables (:mod:`attngraph.experiments.tasks.catalogue`), with the interface
:class:`attngraph.experiments.tasks.task.Task`.
"""

from attngraph.experiments.tasks import catalogue  # noqa: F401 (registers them)
from attngraph.experiments.tasks.task import TASKS, Column, Task, TaskScores, register, tasks_named

__all__ = ["TASKS", "Column", "Task", "TaskScores", "register", "tasks_named"]
