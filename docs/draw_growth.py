"""Draw docs/growth.gif: the architecture of a run after every growth event, as one animation.

    python docs/draw_growth.py RUN [docs/growth.gif]

It needs a Chromium for the pictures (``ghostkit doctor`` says whether there is one).
"""

from __future__ import annotations

import io
import sys

import kaleido
from PIL import Image

import ghostkit
from ghostkit import views

SIZE = {"width": 960, "height": 560}


def main(folder: str, target: str = "docs/growth.gif") -> None:
    """Write the animation of the run in ``folder`` to ``target``."""
    run = ghostkit.Run(folder)
    count = len(run.events)
    seedling = run.architecture(0)
    accuracy = run.metrics.query("split == 'test'").set_index("step")["accuracy"]
    kaleido.start_sync_server(silence_warnings=True, mathjax=False)
    pictures = []
    for event in range(count + 1):
        step = 0 if event == 0 else run.events["step"][event - 1]
        reached = accuracy[accuracy.index <= step].iloc[-1]
        titles = ("seedling", f"event {event}, accuracy {reached:.0%}")
        figure = views.architecture(seedling, run.architecture(event), titles=titles, last_event=count)
        figure.update_layout(autosize=False, **SIZE)
        data = kaleido.calc_fig_sync(figure, opts={"format": "png", **SIZE, "scale": 1})
        pictures.append(Image.open(io.BytesIO(data)).convert("RGB").quantize(64))
    kaleido.stop_sync_server()
    durations = [900] * count + [3000]
    pictures[0].save(target, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
