"""The tasks that need no folder of data: those of a table without ``--data``."""

from attngraph.experiments.tasks import TASKS

DRAWN = {name: task for name, task in TASKS.items() if task.data_set is None}
