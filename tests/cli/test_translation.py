"""Translation from raw text to scores, by the commands that people type."""

import json
import os
import random
import tarfile

import pytest

from tests.cli.fairtale_command import assert_user_error, fairtale, script

NOUNS = {"cat": "кот", "dog": "пёс", "house": "дом", "boy": "мальчик", "table": "стол"}
VERBS = {"sees": "видит", "finds": "находит", "hears": "слышит", "loves": "любит"}
OPTIONS = ("--vocab-size", "340", "--valid-size", "20", "--joint", "--workers", "1")


def sentences(count, seed):
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        (a, x), (b, y) = draw.sample(sorted(NOUNS.items()), 2)
        verb, word = draw.choice(sorted(VERBS.items()))
        number = draw.randint(2, 999)
        pairs.append((f"The {a} “{verb}” {number} {b}.", f"{x.title()} «{word}» {number} {y}."))
    return pairs


def write_pairs(prefix, pairs):
    for lang, lines in zip(("en", "ru"), zip(*pairs)):
        with open(f"{prefix}.{lang}", "w", encoding="utf-8") as stream:
            stream.writelines(line + "\n" for line in lines)


def write_sgm(prefix, pairs):
    for kind, lang, lines in zip(("src", "ref"), ("en", "ru"), zip(*pairs)):
        segments = "".join(f'<seg id="{n}">{line}</seg>\n' for n, line in enumerate(lines, 1))
        with open(f"{prefix}-{kind}.{lang}.sgm", "w", encoding="utf-8") as stream:
            stream.write(f'<{kind}set>\n<doc docid="news.1">\n{segments}</doc>\n</{kind}set>\n')


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with corpora, a prepared data-bin and a model that was trained a little."""
    folder = tmp_path_factory.mktemp("translation with spaces")
    write_pairs(folder / "a", [*sentences(200, 1), ("", "пусто"), ("same 1", "same 1")])
    write_pairs(folder / "b", [*sentences(60, 2), *sentences(200, 1)[:5]])
    write_sgm(folder / "news", sentences(13, 3))
    write_pairs(folder / "more", sentences(9, 4))
    arguments = ("--source", "a", "--source", "b", "--test", "news", "--test", "more", *OPTIONS)
    done = script("wmt16_en_ru/prepare.sh", *arguments, "--data-bin", "data", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "prepare.out").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def model(work):
    words = "--model tiny --data-bin data --save-dir run --update-tokens 2048 --max-update 40"
    words += " --validate-interval-updates 20 --save-interval-updates 20 --lr 0.005"
    words += " --warmup-updates 10 --eval-bleu-sentences 7 --data-buffer-size 0 --num-workers 0"
    words += " --precision fp32"
    done = script("wmt16_en_ru/train.sh", *words.split(), cwd=work, env={"N_GPUS": "0"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return work / "run"


def test_prepare_counts_and_keeps_what_was_held_out(work):
    data, out = work / "data", (work / "prepare.out").read_text()
    report = json.loads((data / "text" / "report.json").read_text())
    assert report["corpora"]["a"]["a side empty"] == 1
    assert report["corpora"]["a"]["same on both sides"] == 1
    assert report["corpora"]["b"]["duplicate"] == 5
    sizes = report["pairs"]
    assert sizes == {"train": 240, "valid": 20, "test": 13, "test1": 9}
    for subset, size in sizes.items():
        for lang in ("en", "ru"):
            assert f"{subset}.{lang}: {size} sents" in out and "0.0% replaced" in out
    assert (data / "text" / "names.txt").read_text() == "test\tnews\ntest1\tmore\n"
    lines = (data / "text" / "test.ru").read_text().splitlines()
    assert lines == [target for _, target in sentences(13, 3)]  # as they were
    assert (data / "tokenizer.json").is_file() and (data / "sentencepiece.bpe.model").is_file()
    assert "train.en" not in os.listdir(data / "text")


def test_prepare_again_does_nothing_or_says_why_not(work):
    arguments = ("--source", "a", "--source", "b", "--test", "news", "--test", "more", *OPTIONS)
    done = script("wmt16_en_ru/prepare.sh", *arguments, "--data-bin", "data", cwd=work)
    assert done.returncode == 0 and "is ready (made before" in done.stderr
    arguments = ("--source", "a", *OPTIONS, "--data-bin", "data", "--escape")
    done = script("wmt16_en_ru/prepare.sh", *arguments, cwd=work)
    assert done.returncode == 2 and "asked for:  options --escape" in done.stderr


def test_training_reports_bleu_and_translations(model):
    log = (model / "train.log").read_text()
    assert log.count("BLEU signature: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp") == 1
    assert log.count('"valid_bleu"') == 2 and log.count("translation of sentence") == 6
    assert "source    The " in log
    assert (model / "checkpoint_average.pt").is_file()


def test_text_in_text_out_without_options(work, model, fairseq):
    done = fairseq.run(
        "interactive",
        work / "data",
        *("--path", model / "checkpoint_average.pt", "--cpu"),
        stdin="The cat “sees” 5 dog.\nThe boy.\n",
    )
    rows = done.rows("D")
    assert [number for number, _ in rows] == [0, 1]
    assert all("▁" not in text[1] for _, text in rows)
    sources = ["".join(text[0].split()) for _, text in done.rows("S")]
    assert sources == ['▁The▁cat▁"▁sees▁"▁5▁dog▁.', "▁The▁boy▁."]


def test_generate_writes_a_line_for_each_line(work, model):
    """A carriage return does not end a line, and the last line may lack its line feed."""
    text = "The cat.\n\nNo.\rYes.\r\n \t\u00a0\u200b\nThe boy."
    (work / "text.en").write_bytes(text.encode())
    words = "--checkpoint run/checkpoint_average.pt --data-bin data --beam 1 --input"
    for name in ("-", "text.en"):
        stdin = text.encode() if name == "-" else None
        done = script("wmt16_en_ru/generate.sh", *words.split(), name, cwd=work, stdin=stdin)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.decode() if name == "-" else done.stdout
        assert lines.count("\n") == 5 and "▁" not in lines
        assert [lines.split("\n")[number] for number in (1, 3, 5)] == ["", "", ""]


def test_generate_does_not_lose_a_line(work, model):
    text = f"The cat.\n{'cat ' * 1100}\nNo.\n"
    words = "--checkpoint run/checkpoint_average.pt --data-bin data --beam 1 --input -"
    words += " --skip-invalid-size-inputs-valid-test"
    done = script("wmt16_en_ru/generate.sh", *words.split(), cwd=work, stdin=text)
    assert_user_error(done, "2 translations of 3 lines: line 2 has none; if it is too long")
    assert not done.stdout


def test_evaluate_prints_a_table_with_signatures(work, model):
    words = "--checkpoint run/checkpoint_average.pt --data-bin data --output out --beam 1"
    done = script("wmt16_en_ru/evaluate.sh", *words.split(), cwd=work)
    assert done.returncode == 0, done.stderr
    lines = [line.strip("|") for line in done.stdout.splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert table[0] == ["set", "sentences", "BLEU", "chrF2"]
    assert [row[:2] for row in table[1:]] == [["news", "13"], ["more", "9"]]
    assert all(0 <= float(figure) <= 100 for row in table[1:] for figure in row[2:])
    assert "BLEU|nrefs:1|case:mixed|eff:no|tok:13a" in done.stdout
    assert "chrF2|nrefs:1|case:mixed" in done.stdout
    assert len((work / "out" / "test.ru").read_text().splitlines()) == 13


def test_a_model_is_pruned_and_then_pruned_again(work, model):
    """The second time from a file whose layers differ in width."""
    prune = "--data-bin data --updates 6 --fix-update 4 --update-tokens 2048"
    prune += " --eval-bleu-sentences 0 --data-buffer-size 0 --num-workers 0 --precision fp32"
    before = model / "checkpoint_average.pt"
    for heads, more in ((3, "--ffn-keep 0.5"), (1, "")):
        words = f"{prune} {more} --heads {heads} --save-dir heads_{heads} --checkpoint"
        done = script("wmt16_en_ru/prune.sh", *words.split(), before, cwd=work, env={"N_GPUS": "0"})
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert f"encoder heads         {heads} of " in done.stdout
        smaller = work / f"heads_{heads}" / "pruned.pt"
        assert smaller.stat().st_size < before.stat().st_size
        before = smaller
    assert "encoder feed-forward  32 of 32" in done.stdout
    # the folder is that of one checkpoint and one choice of heads; for these training goes on
    words = [*prune.split(), "--heads", "3", "--save-dir", "heads_3", "--checkpoint"]
    done = script("wmt16_en_ru/prune.sh", *words, before, "--gated", "cross", cwd=work)
    assert_user_error(done, "heads_3 holds a training with other settings")
    for part in ("  it has:     gated encoder\n", "  asked for:  gated cross\n", str(before)):
        assert part in done.stderr
    words += [model / "checkpoint_average.pt", "--updates", "7"]
    done = script("wmt16_en_ru/prune.sh", *words, cwd=work, env={"N_GPUS": "0"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert '_num_updates": "7"' in (work / "heads_3" / "train.log").read_text()
    (work / "heads_3" / "prune.txt").unlink()
    done = script("wmt16_en_ru/prune.sh", *words, cwd=work)
    assert_user_error(done, "heads_3 holds a training, but no prune.txt")


# -------------------------------------------------------------------------------- direction


def test_the_direction_need_not_be_named(fairseq, tmp_path):
    """Models of both directions on the same data, where each language has its own dictionary."""
    for split, count in (("train", 12), ("valid", 5)):
        write_pairs(tmp_path / split, sentences(count, 1))
    words = ["--trainpref", tmp_path / "train", "--validpref", tmp_path / "valid", "--workers", 1]
    data = tmp_path / "bin"
    fairseq.run("preprocess", "-s", "en", "-t", "ru", *words, "--destdir", data)
    words = "--task wmt16_translation --arch transformer_tiny --encoder-embed-dim 16 "
    words += "--decoder-embed-dim 16 --optimizer adam --lr 0.01 --max-update 1 --cpu "
    words += "--batch-size 12 --no-epoch-checkpoints --data-buffer-size 0 --num-workers 0"
    for pair in (("en", "ru"), ("ru", "en")):
        folder = tmp_path / "".join(pair)
        train = [*words.split(), "-s", pair[0], "-t", pair[1], "--save-dir", folder]
        fairseq.run("train", data, *train, "--disable-validation")
    paths = [tmp_path / name / "checkpoint_last.pt" for name in ("enru", "ruen")]
    words = "--gen-subset valid --cpu --beam 1 --max-len-b 5 --batch-size 5".split()
    for task in ([], ["--task", "wmt16_translation"]):
        done = fairseq.run("generate", data, *words, *task, "--path", paths[1])
        for kind, index in (("S", 1), ("T", 0)):
            found = [text[0] for _, text in sorted(done.rows(kind))]
            assert found == [pair[index] for pair in sentences(5, 1)]
        english = {word for pair in sentences(17, 1) for word in pair[0].split()}
        words_found = {word for _, text in done.rows("H") for word in text[1].split()}
        assert words_found <= english | {"<unk>"}
    both = f"{paths[0]}{os.pathsep}{paths[1]}"
    done = fairseq.run("generate", data, *words, "--path", both, check=False)
    assert done.status == 1
    assert "a checkpoint translates ru-en, and an earlier one en-ru: give models of" in done.error
    done = fairseq.run("generate", data, *words, "-t", "ru", "--path", paths[1], check=False)
    assert "-s en -t ru: the checkpoint translates ru-en; leave the options out" in done.error


def test_the_corpora_are_fetched_and_unpacked(work, tmp_path):
    """The four archives of WMT16, here small ones in a folder."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    pairs = sentences(90, 5)
    for name in ("commoncrawl.ru-en", "news-commentary-v11.ru-en"):
        write_pairs(tmp_path / name, pairs)
    for year in (2015, 2016):
        write_sgm(tmp_path / f"newstest{year}-enru", sentences(5, year))
    contents = {
        "training-parallel-commoncrawl": ("", "commoncrawl.ru-en.{}"),
        "training-parallel-nc-v11": ("training-parallel-nc-v11/", "news-commentary-v11.ru-en.{}"),
        "dev": ("dev/", "newstest2015-enru-{}.sgm"),
        "test": ("test/", "newstest2016-enru-{}.sgm"),
    }
    for archive, (folder, name) in contents.items():
        with tarfile.open(mirror / f"{archive}.tgz", "w:gz") as tar:
            for end in ("src.en", "ref.ru") if "sgm" in name else ("en", "ru"):
                tar.add(tmp_path / name.format(end), arcname=folder + name.format(end))
    done = script(
        "wmt16_en_ru/prepare.sh",
        *("--data-bin", tmp_path / "data", "--vocab-size", "330", "--workers", "1"),
        *("--download-dir", tmp_path / "download"),
        cwd=tmp_path,
        env={"WMT16_MIRROR": mirror.as_uri()},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = tmp_path / "data"
    report = json.loads((data / "text" / "report.json").read_text())
    assert report["pairs"] == {"train": 90, "valid": 5, "test": 5}
    assert (data / "dict.en.txt").read_text() != (data / "dict.ru.txt").read_text()
    assert (data / "sentencepiece.bpe.ru.model").is_file()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--source", "short"], ["short.en has 9 lines", "short.ru 8", "line 4"]),
        (["--source", "a", "--test", "hole"], ["segment 3 of document news.1 is missing"]),
        (["--source", "nothing"], ["--source nothing: no file nothing.en"]),
        (["--source", "a", "--valid-size", "9999"], ["--valid-size 9999: only"]),
        (["--source", "a", "--valid", "more", "--valid-size", "2"], ["give one of them"]),
        (["--source", "a", "-s", "ru"], ["-s ru -t ru: give two languages"]),
        (["--source", "a", "--max-words", "1"], ["no pair is left", "(pairs 202, too long 200"]),
    ],
)
def test_bitext_says_what_is_wrong(work, tmp_path, words, parts):
    pairs = sentences(9, 4)
    write_pairs(work / "short", pairs)
    lines = [target for n, (_, target) in enumerate(pairs) if n != 3]
    (work / "short.ru").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    write_sgm(work / "hole", pairs)
    text = (work / "hole-ref.ru.sgm").read_text(encoding="utf-8").splitlines(keepends=True)
    (work / "hole-ref.ru.sgm").write_text("".join(text[:4] + text[5:]), encoding="utf-8")
    done = fairtale("bitext", *words, "--output", tmp_path / "out", "--workers", "1", cwd=work)
    assert_user_error(done, *parts)


def test_workers_change_nothing(work, tmp_path):
    for workers in ("1", "3"):
        words = ("--source", "a", "--source", "b", "--valid-size", "9", "--workers", workers)
        done = fairtale("bitext", *words, "--output", tmp_path / workers, "--quiet", cwd=work)
        assert done.returncode == 0, done.stderr
    names = sorted(os.listdir(tmp_path / "1"))
    assert names == ["raw", "report.json", "tokenizer.json"] + [
        f"{subset}.{lang}" for subset in ("train", "valid") for lang in ("en", "ru")
    ]
    for name in names[1:]:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()
