"""Truth beside prediction: images with their boxes, their masks, or their likeliest classes.

All images of a figure lie on one sheet (:mod:`ghostkit.views.sheet`), and a class is one trace over it. A class has the
same colour in every figure. As colours alone cannot tell ten classes apart for everybody, names stand at boxes and
regions too. A name that finds no free place is left out, and its box still says it when it is pointed at.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ghostkit.errors import GhostkitError
from ghostkit.predicting import IGNORED, Prediction
from ghostkit.views.lettering import BARE, Label, laid_apart, shortened, width_of
from ghostkit.views.sheet import APART, BETWEEN, HEADING, NARROW, Panel, Sheet, picture_of, sheet_of
from ghostkit.views.theme import BLUE, CYCLE, DASHES, GRID, INK, LEGEND_ABOVE, MUTED, OWN_WORDS, finish, notice

__all__ = ["class_colour", "predictions", "predictions_text"]

NOTHING = "There are no predictions to show."
BACKGROUND = "background"  # a class of this name is left as the image is
# After the colours of every figure: those that are furthest from all before them, to readers with and without
# protanopia and deuteranopia (Machado et al., 2009; the least CIELAB distance among the twelve is 18).
COLOURS = (*CYCLE, "#F0E442", "#661100", "#332288", "#B2DF8A", "#01665E", "#FFAABB")
COVER = 0.62  # opacity of a mask over its image
SPECK = 0.01  # share of an image; a smaller region is coloured, but not named in the image
LIKELIEST = 3
COLUMNS = {"classification": 3, "detection": 2, "segmentation": 2}  # images in a row

# In pixels of the screen.
LARGEST = {"classification": 190, "detection": 340, "segmentation": 340}  # side of an image
LINE = 17  # height of a line below an image
BELOW = 8  # what is free below all that
MARGIN = {"l": 20, "r": 24, "t": 10, "b": 10}


def predictions(
    found: Sequence[Prediction], classes: Sequence[str], task: str, columns: int | None = None, least_score: float = 0.3
) -> go.Figure:
    """Return images with what is in them beside what a network found; of a classifier, below it what is likeliest.

    Args:
        found: what ``ghostkit.predicting`` returns.
        classes: names of the classes, in the order of their numbers.
        task: classification, detection or segmentation.
        columns: images in a row at most; three when None, or two of detection and segmentation, where each is a pair.
        least_score: boxes of a lower score are not drawn, 0 to 1.

    Raises:
        GhostkitError: if the task is unknown, a number does not fit, or a class has no name.
    """
    _check(found, classes, task, least_score)
    columns = COLUMNS[task] if columns is None else columns
    if columns < 1:
        raise GhostkitError(f"columns={columns} was given; expected 1 or more images in a row")
    if not found:
        return notice(NOTHING)
    size = max(one.image.shape[0] for one in found), max(one.image.shape[1] for one in found)
    one_panel = task == "classification"
    below = BELOW + (HEADING + LINE * LIKELIEST if one_panel else 0)
    sheet = sheet_of(len(found), size, columns, 1 if one_panel else 2, LARGEST[task], below)
    draw = {"classification": _classified, "detection": _detected, "segmentation": _segmented}[task]
    drawn = draw(sheet, found, classes, least_score)
    figure = go.Figure([picture_of(sheet, drawn.tiles), *drawn.traces])
    width, height = sheet.size
    top = MARGIN["t"] + 20 * _legend_rows([classes[number] for number in drawn.present])
    fitted: dict[str, Any] = {"visible": False, "constrain": "domain"}
    return finish(
        figure,
        predictions_text(found, classes, task, least_score),
        height=round(sheet.unit * height) + top + MARGIN["b"],
        annotations=[*drawn.headings, *laid_apart(drawn.labels, sheet.narrow)],
        shapes=drawn.bars,
        xaxis={"constraintoward": "left", "range": [0, width], **fitted},
        yaxis={"constraintoward": "top", "range": [height, 0], "scaleanchor": "x", **fitted},
        margin=MARGIN | {"t": top},
        # What a class's label says would stay when its boxes are switched off.
        legend=LEGEND_ABOVE | {"y": 1.0, "itemclick": False, "itemdoubleclick": False},
    )


def _check(found: Sequence[Prediction], classes: Sequence[str], task: str, least_score: float) -> None:
    if task not in LARGEST:
        raise GhostkitError(f"unknown task {task!r}, expected one of {', '.join(LARGEST)}")
    if not 0 <= least_score <= 1:
        raise GhostkitError(f"least_score={least_score} was given; expected a score from 0 to 1")
    for one in found:
        if task == "classification":
            numbers = [one.truth, len(one.found) - 1]
        elif task == "detection":
            numbers = [*one.truth[:, 4].astype(int), *one.found[:, 4].astype(int)]
        else:
            numbers = [*np.unique(one.truth[one.truth != IGNORED]), *np.unique(one.found)]
        if max(numbers, default=0) >= len(classes):
            raise GhostkitError(
                f"image {one.number} has class {max(numbers)}, but {len(classes)} names of classes were given; "
                "expected one for each"
            )


def class_colour(number: int) -> str:
    """Return the colour of a class: the same in every figure; after twelve they come back lighter, then darker.

    Args:
        number: of the class, from 0.
    """
    turn, place = divmod(number, len(COLOURS))
    share, aim = ((0.0, 0), (0.5, 255), (0.5, 0))[turn % 3]
    return "#" + "".join(f"{round(channel + share * (aim - channel)):02X}" for channel in _rgb(COLOURS[place]))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


@dataclass
class _Drawn:
    """What a task draws: pixels by panel, and what lies over them."""

    tiles: list[tuple[Panel, np.ndarray]]  # (H, W, 3), bytes
    traces: list[go.Scatter]
    labels: list[Label]
    headings: list[dict[str, Any]]
    bars: list[dict[str, Any]]
    present: list[int]  # numbers of the classes that the legend names


def _coloured(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def _heading_room(sheet: Sheet) -> float:
    """Return how wide a heading may be: it may reach into the gap to the next one."""
    return sheet.width * sheet.narrow + (APART if sheet.panels == 1 else BETWEEN) / 2


def _heading(sheet: Sheet, panel: Panel, text: str, below: bool = False) -> dict[str, Any]:
    room = _heading_room(sheet)
    size = 11 if width_of(text, 11) <= room else 10
    return {
        "text": html.escape(shortened(text, room, size), quote=False),
        "font": {"size": size, "color": MUTED if below else INK},
        **{"x": panel.left, "y": panel.bottom if below else panel.top},
        **{"xanchor": "left", "yanchor": "top" if below else "bottom", **BARE},
    }


def _pair_headings(sheet: Sheet, number: int, one: Prediction) -> list[dict[str, Any]]:
    return [
        _heading(sheet, sheet.panel(number, 0), f"image {one.number} · truth"),
        _heading(sheet, sheet.panel(number, 1), f"predicted · loss {one.loss:.2f}"),
    ]


def _legend_rows(names: Sequence[str]) -> int:
    """Return how many rows the legend has in a narrow figure: its columns are all as wide as the longest name."""
    if not names:
        return 0
    columns = max(1, int(NARROW / (max(width_of(name, 11) for name in names) + 50)))
    return -(-len(names) // columns)


def _detected(sheet: Sheet, found: Sequence[Prediction], classes: Sequence[str], least_score: float) -> _Drawn:
    drawn = _Drawn([], [], [], [], [], [])
    lines: dict[int, tuple[list[Any], list[Any], list[str]]] = {}
    for number, one in enumerate(found):
        drawn.headings += _pair_headings(sheet, number, one)
        for place, rows in enumerate((one.truth, _kept(one, least_score))):
            panel = sheet.panel(number, place)
            drawn.tiles.append((panel, _coloured(one.image)))
            for row in rows:
                label, score = int(row[4]), f" {_whole(row[5])}" if len(row) > 5 else ""
                x1, x2 = (panel.left + float(x) for x in row[[0, 2]])
                y1, y2 = (panel.top + float(y) for y in row[[1, 3]])
                xs, ys, words = lines.setdefault(label, ([], [], []))
                xs += [x1, x2, x2, x1, x1, None]
                ys += [y1, y1, y2, y2, y1, None]
                corners = f"x {row[0]:.0f} to {row[2]:.0f}, y {row[1]:.0f} to {row[3]:.0f} px"
                said = html.escape(classes[label], quote=False)
                words += [f"<b>{said}</b>{score}<br>{corners}<br>image {one.number}"] * 6
                room = sheet.width * sheet.narrow - 6 - width_of(score, 10)
                text = shortened(classes[label], room, 10) + score
                reach = width_of(text, 10) / sheet.narrow
                drawn.labels.append(Label(text, class_colour(label), panel, _around(x1, y1, x2, y2, panel, reach)))
    drawn.present = sorted(lines)
    if lines:
        # A pale line under all boxes keeps them visible on whatever they lie on.
        all_x = [x for label in drawn.present for x in lines[label][0]]
        all_y = [y for label in drawn.present for y in lines[label][1]]
        halo = {"color": "rgba(255,255,255,0.75)", "width": 4}
        drawn.traces.append(go.Scatter(x=all_x, y=all_y, line=halo, mode="lines", hoverinfo="skip", showlegend=False))
        for label in drawn.present:
            xs, ys, words = lines[label]
            dash = DASHES[label // len(COLOURS) % len(DASHES)]
            look = {"line": {"color": class_colour(label), "width": 2, "dash": dash}, "mode": "lines"}
            named = {"name": html.escape(classes[label], quote=False), "hovertemplate": OWN_WORDS, "showlegend": True}
            drawn.traces.append(go.Scatter(x=xs, y=ys, hovertext=words, **named, **look))
    return drawn


def _kept(one: Prediction, least_score: float) -> np.ndarray:
    """Return the boxes that are shown, the surest first."""
    rows = one.found[one.found[:, 5] >= least_score]
    return rows[np.argsort(-rows[:, 5], kind="stable")]


def _around(
    x1: float, y1: float, x2: float, y2: float, panel: Panel, reach: float
) -> tuple[tuple[float, float, str, str], ...]:
    """Return where a box's label of length ``reach`` may stand, best first: over it, under it, inside, beside it."""
    over_and_under = [(y1, "bottom"), (y2, "top"), (y1, "top"), (y2, "bottom")]
    flush = [(x1, "left"), (x2, "right")]
    beside = [(x2, "left"), (x1, "right")]
    # A long name at a narrow box may fit only where the panel begins or ends, if it is near enough to its box there.
    edges = [(float(panel.left), "left")] if panel.left + reach > x1 else []
    edges += [(float(panel.right), "right")] if panel.right - reach < x2 else []
    return (
        *((x, y, across, along) for y, along in over_and_under for x, across in flush),
        *((x, y, across, along) for y, along in over_and_under[2:] for x, across in beside),
        *((x, y, across, along) for y, along in over_and_under for x, across in edges),
    )


def _segmented(sheet: Sheet, found: Sequence[Prediction], classes: Sequence[str], _least_score: float) -> _Drawn:
    drawn = _Drawn([], [], [], [], [], [])
    present: set[int] = set()
    for number, one in enumerate(found):
        drawn.headings += _pair_headings(sheet, number, one)
        for place, mask in enumerate((one.truth, one.found)):
            panel = sheet.panel(number, place)
            shown = [label for label in np.unique(mask[mask != IGNORED]).tolist() if classes[label] != BACKGROUND]
            present |= set(shown)
            drawn.tiles.append((panel, _overlaid(_coloured(one.image), mask, shown)))
            sizes = {label: int((mask == label).sum()) for label in shown}
            named = [label for label in shown if sizes[label] >= SPECK * mask.size]
            for label in sorted(named, key=lambda label: -sizes[label]):
                text = shortened(classes[label], sheet.width * sheet.narrow - 6, 10)
                drawn.labels.append(Label(text, class_colour(label), panel, _within(mask == label, panel)))
    drawn.present = sorted(present)
    drawn.traces.append(_pointed_at(sheet, found, classes, "segmentation"))
    for label in drawn.present:
        marker = {"symbol": "square", "size": 11, "color": class_colour(label)}
        looks = {"mode": "markers", "marker": marker, "hoverinfo": "skip", "showlegend": True}
        drawn.traces.append(go.Scatter(x=[None], y=[None], name=html.escape(classes[label], quote=False), **looks))
    return drawn


def _overlaid(image: np.ndarray, mask: np.ndarray, shown: Sequence[int]) -> np.ndarray:
    """Return ``image`` (H, W, 3) under the colours of ``mask`` (H, W); what is not asked for is striped grey."""
    over = image.astype(np.float32)
    for label in shown:
        here = mask == label
        over[here] = (1 - COVER) * over[here] + COVER * np.array(_rgb(class_colour(label)), dtype=np.float32)
    rows, columns = np.indices(mask.shape)
    over[(mask == IGNORED) & ((rows + columns) % 4 < 2)] = _rgb(MUTED)
    return over.round().astype(np.uint8)


def _within(region: np.ndarray, panel: Panel) -> tuple[tuple[float, float, str, str], ...]:
    """Return where a region's label may stand, best first: in its middle, beside that, at its ends."""
    ys, xs = np.nonzero(region)  # (pixels,)
    # Of its pixels the one nearest to their median: a region may be hollow, or in pieces.
    middle = int(np.argmin((ys - np.median(ys)) ** 2 + (xs - np.median(xs)) ** 2))
    ends = [middle, int(ys.argmin()), int(ys.argmax()), int(xs.argmin()), int(xs.argmax())]
    points = [(panel.left + float(xs[end]) + 0.5, panel.top + float(ys[end]) + 0.5) for end in ends]
    anchors = [(across, along) for along in ("middle", "bottom", "top") for across in ("center", "left", "right")]
    return tuple((x, y, across, along) for x, y in points for across, along in anchors)


def _classified(sheet: Sheet, found: Sequence[Prediction], classes: Sequence[str], _least_score: float) -> _Drawn:
    drawn = _Drawn([], [], [], [], [], [])
    for number, one in enumerate(found):
        panel = sheet.panel(number, 0)
        drawn.tiles.append((panel, _coloured(one.image)))
        truth = f"{one.number} · truth {classes[one.truth]}"
        fits = width_of(f"image {truth}", 10) <= _heading_room(sheet)
        drawn.headings.append(_heading(sheet, panel, f"image {truth}" if fits else truth))
        drawn.headings.append(_heading(sheet, panel, f"predicted · loss {one.loss:.2f}", below=True))
        for line, label in enumerate(_likeliest(one)):
            share = float(one.found[label])
            top = panel.bottom + (HEADING + LINE * line) / sheet.narrow
            bottom = top + (LINE - 2) / sheet.narrow
            right = label == one.truth
            colour = {"fillcolor": BLUE if right else MUTED, "opacity": 0.3 if right else 0.2}
            for end, look in ((sheet.width, {"fillcolor": GRID, "opacity": 0.6}), (share * sheet.width, colour)):
                sides = {"x0": panel.left, "x1": panel.left + end, "y0": top, "y1": bottom}
                drawn.bars.append({"type": "rect", "line": {"width": 0}, **look, **sides})
            room = sheet.width * sheet.narrow - 44
            words = html.escape(shortened(classes[label], room, 11), quote=False)
            middle: dict[str, Any] = {"y": (top + bottom) / 2, "yanchor": "middle", **BARE}
            middle["font"] = {"size": 11, "color": INK}
            name = {"x": panel.left, "xanchor": "left", "xshift": 3, "text": f"<b>{words}</b>" if right else words}
            value = {"x": panel.right, "xanchor": "right", "xshift": -3, "text": _whole(share)}
            drawn.headings += [middle | name, middle | value]
    drawn.traces.append(_pointed_at(sheet, found, classes, "classification"))
    return drawn


def _likeliest(one: Prediction) -> list[int]:
    return np.argsort(-one.found, kind="stable")[:LIKELIEST].tolist()


def _pointed_at(sheet: Sheet, found: Sequence[Prediction], classes: Sequence[str], task: str) -> go.Scatter:
    """Return invisible marks in the middle of the panels, which say in words what is shown."""
    places = [(number, panel) for number in range(len(found)) for panel in range(sheet.panels)]
    panels = [sheet.panel(*place) for place in places]
    said = [_line(one, classes, task, 0.0).replace(": ", "\n", 1).replace("; ", "\n") for one in found]
    lines = [html.escape(text, quote=False).replace("\n", "<br>") for text in said]  # an escaped & has a ; of its own
    return go.Scatter(
        x=[(panel.left + panel.right) / 2 for panel in panels],
        y=[(panel.top + panel.bottom) / 2 for panel in panels],
        mode="markers",
        marker={"size": 40, "opacity": 0},
        hovertext=[lines[number] for number, _ in places],
        hovertemplate=OWN_WORDS,
        showlegend=False,
    )


def predictions_text(found: Sequence[Prediction], classes: Sequence[str], task: str, least_score: float = 0.3) -> str:
    """Return a line for each image: what is in it, what was found, and the loss.

    Args:
        found: what ``ghostkit.predicting`` returns.
        classes: names of the classes, in the order of their numbers.
        task: classification, detection or segmentation.
        least_score: boxes of a lower score are not counted, 0 to 1.

    Raises:
        GhostkitError: if the task is unknown, the score is none, or a class has no name.
    """
    _check(found, classes, task, least_score)
    return "\n".join(_line(one, classes, task, least_score) for one in found) or NOTHING


def _line(one: Prediction, classes: Sequence[str], task: str, least_score: float) -> str:
    if task == "classification":
        likely = ", ".join(f"{classes[label]} ({_whole(one.found[label])})" for label in _likeliest(one))
        words = f"truth {classes[one.truth]}; predicted {likely}"
    elif task == "detection":
        rows, truth = _kept(one, least_score), one.truth[:, 4].astype(int)
        there = [f"{(truth == label).sum()} {classes[label]}" for label in np.unique(truth)]
        scores = {int(label): rows[rows[:, 4] == label, 5] for label in np.unique(rows[:, 4])}
        seen = [f"{len(of)} {classes[label]} ({', '.join(map(_whole, of))})" for label, of in scores.items()]
        nothing = f"nothing of {_whole(least_score)} or more" if least_score > 0 else "nothing"
        words = f"truth {', '.join(there) or 'nothing'}; found {', '.join(seen) or nothing}"
    else:
        shares = [f"{classes[label]} {_whole(iou)}{remark}" for label, iou, remark in _ious(one)]
        words = f"IoU {', '.join(shares)}" if shares else "no pixel is asked for"
    return f"image {one.number}: {words}; loss {one.loss:.2f}"


def _ious(one: Prediction) -> Iterator[tuple[int, float, str]]:
    """Yield number, IoU and a remark for each class that is there, in truth or in prediction."""
    asked = one.truth != IGNORED
    truth, found = one.truth[asked], one.found[asked]
    for label in np.union1d(truth, found).tolist():
        there, seen = truth == label, found == label
        remark = "" if (there & seen).any() else " (missed)" if there.any() else " (not there)"
        yield label, float((there & seen).sum() / (there | seen).sum()), remark


def _whole(share: float) -> str:
    return f"{100 * share:.0f} %"
