"""What needs a kernel and somebody at it: widgets over the figures of :mod:`ghostkit.views`.

Widgets are thin. They ask, and what they are told is drawn by the pure figures. Once the kernel is gone nothing is left
of them; what is to stay in a notebook is shown by ``views.show``.
"""

from ghostkit.widgets.browsing import browse
from ghostkit.widgets.choosing import gallery
from ghostkit.widgets.dashboard import Dashboard
from ghostkit.widgets.explorer import Explorer
from ghostkit.widgets.sweeping import SweepProgress

__all__ = ["Dashboard", "Explorer", "SweepProgress", "browse", "gallery"]
