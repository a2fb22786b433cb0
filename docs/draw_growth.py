"""Draw docs/growth.gif: the architecture of a run after every growth event, as one animation.

    python docs/draw_growth.py RUN [docs/growth.gif]

It needs a Chromium for the pictures (``ghostkit doctor`` says whether there is one).
"""

from __future__ import annotations

import io
import sys

import kaleido
import pandas as pd
import plotly.graph_objects as go
from PIL import Image

import ghostkit
from ghostkit import views

WIDTH, BELOW = 800, 60  # pixels; what a still leaves out below are the replay's buttons and slider
DURATION, LAST = 900, 3000  # milliseconds


def still(replay: go.Figure, number: int, told: str) -> Image.Image:
    """Return frame ``number`` of ``replay`` as a picture, with ``told`` beside its heading."""
    frame = replay.frames[number]
    figure = go.Figure(replay.data, replay.layout)
    for place, trace in zip(frame.traces, frame.data, strict=True):
        figure.data[place].update(trace.to_plotly_json(), overwrite=True)
    figure.layout.annotations = frame.layout.annotations
    heading = figure.layout.annotations[0]
    heading.text = heading.text.replace("</b>", f"</b>, {told}", 1)
    figure.layout.sliders = figure.layout.updatemenus = ()
    size = {"width": WIDTH, "height": figure.layout.height - BELOW}
    figure.update_layout(autosize=False, margin_b=figure.layout.margin.b - BELOW, **size)
    data = kaleido.calc_fig_sync(figure, opts={"format": "png", **size, "scale": 1})
    return Image.open(io.BytesIO(data)).convert("RGB")


def reached(run: ghostkit.Run, step: int) -> str:
    """Return the accuracy on the test images when it was last measured, up to ``step``."""
    accuracy = run.metrics.query("split == 'test'").set_index("step")["accuracy"]
    return f"accuracy {accuracy[accuracy.index <= step].iloc[-1]:.1%}"


def main(folder: str, target: str = "docs/growth.gif") -> None:
    """Write the animation of the run in ``folder`` to ``target``."""
    run = ghostkit.Run(folder)
    grown = run.events[run.events["macs_after"] > run.events["macs_before"]]
    steps = pd.concat([pd.Series({0: 0}), grown.set_index("event")["step"]])
    replay = views.architecture_replay({event: run.architecture(event) for event in steps.index})
    kaleido.start_sync_server(silence_warnings=True, mathjax=False)
    pictures = [still(replay, number, reached(run, step)) for number, step in enumerate(steps)]
    end = f"trained to the end: {reached(run, run.metrics['step'].max())}"
    pictures.append(still(replay, len(steps) - 1, end))
    kaleido.stop_sync_server()
    colours = pictures[-1].quantize(64)  # the last picture has them all
    first, *others = (picture.quantize(palette=colours, dither=Image.Dither.NONE) for picture in pictures)
    durations = [DURATION] * len(others) + [LAST]
    first.save(target, save_all=True, append_images=others, duration=durations, loop=0, optimize=True)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
