"""A hundred notebooks by one command: a sweep file becomes a plan, the plan runs, runs become rows of a table.

Data flows one way: the file (``definition``), the runs that it asks for (``plan``), what a folder holds of them
(``folder``, ``record``), running what is missing (``executing``, on threads by ``local`` or on Dask by ``cluster``),
and what comes of it (``table``, ``page``). Displays (``terminal``, ``ghostkit.widgets.sweeping``) live on ``events``.
"""

from ghostkit.sweeps.definition import SweepFile, read_sweep
from ghostkit.sweeps.events import RunBegan, RunEnded, SweepBegan, SweepEvent, Tally
from ghostkit.sweeps.sweeping import SweepResult, estimate, plan_sweep, plan_table, run_sweep

__all__ = [
    "RunBegan",
    "RunEnded",
    "SweepBegan",
    "SweepEvent",
    "SweepFile",
    "SweepResult",
    "Tally",
    "estimate",
    "plan_sweep",
    "plan_table",
    "read_sweep",
    "run_sweep",
]
