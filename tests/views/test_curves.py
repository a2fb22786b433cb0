import numpy as np
import pandas as pd
import pytest

from ghostkit import views

EMPTY = pd.DataFrame()


def test_the_curves_show_loss_accuracy_and_macs_with_their_units(metrics, events):
    layout = views.training_curves(metrics, events).layout
    titles = [layout[axis].title.text for axis in ("xaxis", "yaxis2", "yaxis3", "yaxis4")]
    assert titles == ["epoch", "loss (nats)", "accuracy (%)", "kMAC<br>per image"]


def test_the_size_steps_where_growth_happened_and_not_where_it_was_next_measured(metrics, events):
    size = next(trace for trace in views.training_curves(metrics, events).data if trace.name == "MACs per image")
    grown = events[events["edits"].ne("")]
    steps = dict(zip(size.x, size.y, strict=True))
    for event in grown.itertuples():
        assert steps[event.epoch] * 1e3 == pytest.approx(event.macs_after)


def test_accuracy_is_drawn_in_percent(metrics):
    train = next(trace for trace in views.training_curves(metrics).data if trace.yaxis == "y3")
    assert 90 < train.y[-1] <= 101


def test_each_growth_event_draws_one_line_and_idle_events_only_a_mark(metrics, events):
    line, grown, idle = views.training_curves(metrics, events).data[-3:]
    assert list(grown.x) == pytest.approx([0.9, 1.8, 3.6])
    assert list(idle.x) == pytest.approx([2.7])
    assert len(line.x) == 3 * 3
    assert "AddBranch(blocks.1.0.ghost1, 5x5)" in grown.hovertext[0]
    assert "no candidate fits" in idle.hovertext[0]


def test_a_later_figure_can_be_poured_into_an_earlier_one(metrics, events):
    earlier = [views.training_curves(EMPTY), views.training_curves(metrics.head(3))]
    later = views.training_curves(metrics, events)
    for figure in earlier:
        assert [(t.type, t.name, t.yaxis) for t in figure.data] == [(t.type, t.name, t.yaxis) for t in later.data]


def test_event_numbers_that_would_touch_are_left_out(metrics, events):
    crowded = pd.concat([events.head(1)] * 40, ignore_index=True)
    crowded = crowded.assign(event=range(1, 41), epoch=np.linspace(1, 2, 40))
    marks = views.training_curves(metrics, crowded).data[-2]
    numbers = [text for text in marks.text if text]
    assert len(marks.x) == 40
    assert numbers[0] == "1"
    assert len(numbers) <= 4


def test_long_curves_are_thinned_but_keep_their_last_point(metrics):
    long = pd.concat([metrics[metrics["split"] == "train"]] * 100, ignore_index=True)
    long = long.assign(epoch=np.arange(len(long)))
    train = next(trace for trace in views.training_curves(long).data if trace.name == "train")
    assert len(train.x) == 1000
    assert train.x[-1] == len(long) - 1


def test_the_text_of_the_curves_says_how_it_began_and_ended(metrics, events):
    lines = views.training_curves_text(metrics, events).splitlines()
    assert lines[0] == "10.00 epochs, 10.6 GMAC spent; 258 kMAC per image at the end"
    assert lines[4].startswith("test   accuracy   28.03 % →  97.49 %  ▁")
    assert lines[-4:] == [
        "    1   0.90  201 k → 220 k  AddBranch(blocks.1.0.ghost1, 5x5)",
        "    2   1.80  220 k → 239 k  AddBlock(blocks.1, after=blocks.1.0)",
        "    3   2.70  239 k → 239 k  no growth",
        "    4   3.60  239 k → 258 k  AddIntrinsic(blocks.0.0.ghost1, 4), AddBranch(blocks.1.g1.ghost1, 3x3)",
    ]


def test_a_run_without_events_has_curves_without_marks(metrics):
    for none in (None, EMPTY):
        assert [len(trace.x) for trace in views.training_curves(metrics, none).data[-3:]] == [0, 0, 0]
        assert views.training_curves_text(metrics, none).endswith("no growth events")


@pytest.mark.parametrize("split", ["train", "test"])
def test_curves_of_one_split_are_drawn(metrics, split):
    figure = views.training_curves(metrics[metrics["split"] == split])
    assert sorted({len(trace.x) > 0 for trace in figure.data[:4]}) == [False, True]
