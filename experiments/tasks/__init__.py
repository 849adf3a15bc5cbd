"""The tasks of the table. A task is one file behind :class:`experiments.tasks.task.Task`; it registers
itself.
"""

from experiments.tasks.task import TASKS, Column, Task, TaskScores, register, tasks_named  # isort: skip
from experiments.tasks import vqa, ve, caption, easy_vqa  # isort: skip # noqa: F401 (in the table's order)
from experiments.tasks import vqa2, vizwiz_vqa, snli_ve, coco, textcaps, vizwiz_caps  # isort: skip # noqa: F401

__all__ = ["TASKS", "Column", "Task", "TaskScores", "register", "tasks_named"]
