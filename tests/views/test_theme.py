from ghostkit.views.theme import age_colours, notice


def test_every_event_has_a_colour_and_the_seedling_another():
    for events in (0, 1, 2, 30):
        assert len(set(age_colours(events))) == events + 1


def test_a_notice_carries_its_sentence_as_annotation_and_as_text():
    figure = notice("There is nothing.")
    assert figure.layout.annotations[0].text == "There is nothing."
    assert figure.layout.meta["text"] == "There is nothing."
