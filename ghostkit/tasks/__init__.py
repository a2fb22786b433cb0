"""What a network learns: the loss, the scores, and what its output must look like, one room a task."""

from ghostkit.tasks.classification import CLASSIFICATION
from ghostkit.tasks.detection import DETECTION
from ghostkit.tasks.segmentation import SEGMENTATION
from ghostkit.tasks.task import Scores, Task

__all__ = ["TASKS", "Scores", "Task"]

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFICATION, DETECTION, SEGMENTATION)}
