import json

from ghostkit import views


def test_candidates_of_the_last_event_are_drawn_best_first_and_the_chosen_framed(candidates):
    figure = views.candidate_scores(candidates)
    last = candidates[candidates["event"] == 4].sort_values("gain", ascending=False)
    assert figure.layout.title.text == "Candidates at growth event 4"
    assert figure.layout.yaxis.ticktext[0] == f"<b>{last.iloc[0]['edit']}</b>"
    gains = {y: x for trace in figure.data[:-2] if trace.xaxis == "x" for y, x in zip(trace.y, trace.x, strict=True)}
    assert [gains[row] for row in sorted(gains)] == list(last["gain"])
    chosen = next(trace for trace in figure.data if trace.name == "chosen")
    assert sorted(chosen.x) == sorted(last.loc[last["chosen"], "gain"])


def test_candidate_axes_say_what_the_gain_is_divided_by(candidates):
    layout = views.candidate_scores(candidates).layout
    assert [layout.xaxis.title.text, layout.xaxis2.title.text] == [
        "predicted gain<br>(nats)",
        "predicted gain<br>(nats per added MMAC)",
    ]


def test_where_no_gain_was_predicted_the_costs_are_drawn_and_no_gain_is_told(candidates):
    figure = views.candidate_scores(candidates.assign(gain=0.0), event=1, limit=2)
    assert figure.layout.title.text.endswith("no gain was predicted</span>")
    assert [axis.title.text for axis in (figure.layout.xaxis, figure.layout.xaxis2)] == [
        "added MACs<br>per image",
        "added<br>parameters",
    ]
    costs = {x for trace in figure.data if trace.xaxis == "x" for x in trace.x}
    assert costs <= set(candidates["macs"])
    assert "gain 0" not in " ".join(text for trace in figure.data for text in trace.hovertext)
    first, second, *rows = views.candidate_scores_text(candidates.assign(gain=0.0), event=1).splitlines()
    assert first == "candidates at growth event 1; no gain was predicted"
    assert second.split()[:4] == ["edit", "kind", "gain", "per"]
    assert {row.count("–") for row in rows[1:]} == {2}  # gain and gain per MMAC


def test_a_legend_that_wraps_in_a_narrow_window_gets_room(candidates):
    few, many = candidates.query("kind == 'branch'").assign(chosen=False), candidates
    assert views.candidate_scores(many).layout.margin.t > views.candidate_scores(few).layout.margin.t


def test_kinds_that_are_not_there_stay_out_of_the_legend(candidates):
    figure = views.candidate_scores(candidates, event=1)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["branch", "intrinsic", "block", "chosen"]


def test_a_kind_without_a_colour_of_its_own_is_still_drawn(candidates):
    strange = candidates.assign(kind="sprout")
    other = next(trace for trace in views.candidate_scores(strange).data if trace.name == "other")
    assert len(other.x) == 12


def test_a_long_list_is_cut_but_the_chosen_stay(candidates):
    worst = candidates.sort_values("gain").index[0]
    event = int(candidates.loc[worst, "event"])
    candidates = candidates.assign(chosen=candidates.index == worst)
    figure = views.candidate_scores(candidates, event, limit=3)
    assert len(figure.layout.yaxis.tickvals) == 4
    assert "the best 4 of 12" in figure.layout.title.text
    assert "8 candidates with a smaller gain are not shown" in views.candidate_scores_text(candidates, event, limit=3)


def test_a_candidate_that_costs_no_macs_has_no_rate(candidates):
    free = candidates.assign(macs=0)
    assert "nan" in views.candidate_scores_text(free)
    json.loads(views.candidate_scores(free).to_json())


def test_the_text_of_candidates_marks_the_chosen(candidates):
    lines = views.candidate_scores_text(candidates).splitlines()
    assert lines[0] == "candidates at growth event 4"
    assert lines[3].split() == [
        "*",
        "AddBranch(blocks.0.0.ghost1,",
        "3x3)",
        "branch",
        "0.0124",
        "0.886",
        "+14.0",
        "k",
        "+350",
    ]
    assert sum(line.startswith("*") for line in lines) == 2


def test_an_event_without_candidates_says_so(candidates):
    assert views.candidate_scores(candidates, event=3).layout.annotations[0].text == "Event 3 has no candidates."
