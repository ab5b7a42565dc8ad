"""The picture of gates."""

from matplotlib import colormaps

from fairtale.pruning.gate_pictures import COLOUR_MAP, heat_map, pixels


def test_a_heat_map_shows_the_chances():
    rows = {"encoder.0": [0.0, 1.0], "encoder.1": [1.0], "cross.0": [0.5, 0.5, 0.5]}
    figure = heat_map(rows, "7 updates")
    encoder, cross, _ = figure.axes  # the last one is the colour bar
    table = encoder.images[0].get_array()
    assert table.shape == (2, 2) and table[0].tolist() == [0.0, 1.0]
    assert table[1, 0] == 1.0 and bool(table.mask[1, 1])  # a layer with one head fewer
    assert encoder.get_title() == "encoder (2.0 of 3 open)"
    assert cross.images[0].get_array().tolist() == [[0.5, 0.5, 0.5]]
    assert figure.get_suptitle() == "7 updates"
    picture = pixels(figure)
    assert picture.ndim == 3 and picture.shape[2] == 3 and picture.std() > 10


def test_numbers_are_short_and_stand_out_from_the_colours():
    figure = heat_map({"encoder.0": [0.0, 0.074, 0.5, 0.994, 0.995, 1.0]}, "")
    texts = figure.axes[0].texts
    assert [t.get_text() for t in texts] == [".00", ".07", ".50", ".99", "1.0", "1.0"]
    assert [t.get_color() for t in texts] == ["white"] * 3 + ["black"] * 3
    closed, opened = (sum(colormaps[COLOUR_MAP](p)[:3]) / 3 for p in (0.0, 1.0))
    assert closed < 0.35 and opened > 0.6  # dark below white numbers, bright below black ones
