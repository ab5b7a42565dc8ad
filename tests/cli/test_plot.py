"""`fairtale plot`: curves of runs as a PNG, without a display."""

import struct

import pytest

from tests.cli.fairtale_command import assert_user_error, fairtale

NO_DISPLAY = {"DISPLAY": "", "MPLBACKEND": ""}


def write_run(folder, losses, validation=()):
    folder.mkdir()
    lines = [
        f'x | INFO | train_inner | {{"epoch": 1, "loss": "{loss}", "lr": "0.1", '
        f'"wps": "9", "num_updates": "{number * 10}"}}'
        for number, loss in enumerate(losses, start=1)
    ]
    lines += [
        f'x | INFO | valid | {{"valid_loss": "{loss}", "valid_num_updates": "{update}"}}'
        for update, loss in validation
    ]
    (folder / "train.log").write_text("\n".join(lines))
    return folder


def size_and_colours(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    from matplotlib.image import imread

    picture = imread(path)
    colours = {tuple((255 * pixel[:3]).astype(int)) for pixel in picture.reshape(-1, 4)}
    return struct.unpack(">II", data[16:24]), colours


def test_one_and_several_runs(tmp_path):
    write_run(tmp_path / "a", [9, 5, 3], [(20, 4), (30, 3)])
    write_run(tmp_path / "b", [8, 6, 5])
    done = fairtale("plot", "a", cwd=tmp_path, env=NO_DISPLAY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "loss, lr of a -> a/curves.png\n"
    (width, height), one = size_and_colours(tmp_path / "a" / "curves.png")
    assert width > 2 * height and width > 1000  # two panels side by side
    blue, orange = (31, 119, 180), (255, 127, 14)
    assert blue in one and orange not in one
    done = fairtale(
        "plot", "a/train.log", "b", "--metrics", "wps", "loss", "wps", "--output", "pics/two.png",
        "--title", "Two runs", cwd=tmp_path, env=NO_DISPLAY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wps, loss of a, b -> pics/two.png\n"
    _, two = size_and_colours(tmp_path / "pics" / "two.png")
    assert blue in two
    assert any(abs(r - 255) < 30 and abs(g - 165) < 40 and b < 130 for r, g, b in two)


def test_runs_of_one_name_are_told_apart(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write_run(tmp_path / name / "run", [3, 2])
    done = fairtale("plot", "x/run", "y/run", cwd=tmp_path)
    assert "of x/run, y/run ->" in done.stdout, done.stderr
    done = fairtale("plot", "x/run", "y/run", "--names", "one", "two", cwd=tmp_path)
    assert "of one, two ->" in done.stdout


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["nowhere"], ["nowhere: no such log file"]),
        (["empty"], ["no train.log in this folder"]),
        (["words.log"], ["words.log: no training statistics", "--log-format"]),
        (["a", "--metrics", "bleu", "loss"], ["--metrics bleu", "loss lr wps"]),
        (["a", "--metrics", "num_updates"], ["--metrics num_updates"]),
        (["a", "a"], ["the same run is named twice"]),
        (["a", "--names", "x", "y"], ["2 names for 1 runs"]),
    ],
)
def test_bad_input_draws_nothing(tmp_path, options, parts):
    write_run(tmp_path / "a", [3, 2])
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.log").write_text("x | INFO | train | no numbers\n")
    assert_user_error(fairtale("plot", *options, cwd=tmp_path), *parts)
    assert not list(tmp_path.glob("*.png"))
