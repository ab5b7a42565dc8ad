"""Beam search over prefixes against a plain reference that never caches and never batches."""

import functools
from types import SimpleNamespace

import pytest
import torch

from tests.helpers import generate, random_rows, tiny_dictionary, tiny_model, tiny_task

BEGIN, PAD, END, UNK = 0, 1, 2, 3
POSITIONS = 16
TOLERANCE = 1e-5  # of normalized scores


@functools.cache
def log_probabilities(models, tokens, temperature):
    """Return log p(next token | tokens) as a list [V], the mean of the models' p."""
    with torch.no_grad():
        probs = [
            torch.softmax(m(torch.tensor(tokens)[None])[0][0, -1].double() / temperature, -1)
            for m in models
        ]
    return (sum(probs) / len(models)).log().tolist()


def repeats(words, token, size):
    """Whether ``words + [token]`` ends with an n-gram that ``words`` holds."""
    new = [*words, token][-size:]
    return len(new) == size and any(
        words[i : i + size] == new for i in range(len(words) - size + 1)
    )


OPTIONS = {
    "beam": 1,
    "max_len": 8,
    "min_len": 1,
    "lenpen": 1.0,
    "unkpen": 0.0,
    "temperature": 1.0,
    "unnormalized": False,
    "no_repeat_ngram_size": 0,
    "forced": (),
}


def reference(models, prompt, **given):
    """fairseq's beam search, one hypothesis at a time.

    Of the 2K best candidates of a step those that end and are among the best K are
    finished, the best K that do not end go on, and the search is over when K have finished.
    """
    assert given.keys() <= OPTIONS.keys()
    options = SimpleNamespace(**{**OPTIONS, **given})
    beam, max_len = options.beam, options.max_len
    prefix = [BEGIN, *prompt]
    running, finished = [([], 0.0)], []
    for step in range(max_len + 1):
        candidates = []
        for words, score in running:
            lprobs = log_probabilities(tuple(models), (*prefix, *words), options.temperature)
            for token, lprob in enumerate(lprobs):
                last = step == max_len or len(prefix) + step == POSITIONS
                if step < len(options.forced) and step < max_len and not last:
                    allowed = token == options.forced[step]
                elif last:
                    allowed = token == END
                else:
                    allowed = token != PAD and (token != END or step >= options.min_len)
                    if options.no_repeat_ngram_size:
                        allowed &= not repeats(words, token, options.no_repeat_ngram_size)
                if allowed:
                    total = score + lprob - options.unkpen * (token == UNK)
                    candidates.append((total, [*words, token]))
        candidates.sort(key=lambda c: -c[0])
        best = candidates[: 2 * beam]
        for total, words in best[:beam]:
            if words[-1] == END and len(finished) < beam:
                scale = 1.0 if options.unnormalized else len(words) ** options.lenpen
                finished.append((total / scale, words))
        if len(finished) == beam or step == max_len:
            break
        running = [(words, total) for total, words in best if words[-1] != END][:beam]
        if not running:
            break
    return sorted(finished, key=lambda f: -f[0])


def assert_same(found, expected):
    assert [h["tokens"].tolist() for h in found] == [words for _, words in expected]
    for hypo, (score, _) in zip(found, expected):
        assert abs(hypo["score"].item() - score) < TOLERANCE * max(1, abs(score))


@pytest.fixture(scope="module")
def models():
    dictionary = tiny_dictionary()
    made = [tiny_model(dictionary, POSITIONS, seed) for seed in (3, 4)]
    with torch.no_grad():
        for model in made:
            transformer = model.transformer
            for layer in transformer.layers:  # a random model likes to repeat itself: less so
                layer.fc2.weight *= 2.5
                layer.self_attn.out_proj.weight *= 2.5
            # and it hardly ever ends by itself, or writes an unknown word: more often
            transformer.layer_norm.weight *= 0.8
            transformer.layer_norm.bias[0] = 2.0
            transformer.embed_tokens.weight[END, 0] = 1.2
            transformer.embed_tokens.weight[UNK, 0] = 0.7
    return made


CASES = {
    "greedy": dict(beam=1),
    "beam 2": dict(beam=2),
    "beam 5": dict(beam=5),
    "wider than the vocabulary's ends": dict(beam=12, max_len=3),
    "one token": dict(beam=4, max_len=1),
    "no token": dict(beam=3, max_len=0, min_len=0),
    "long": dict(beam=3, max_len=15),
    "at least 5": dict(beam=4, min_len=5),
    "exactly 6": dict(beam=3, min_len=6, max_len=6),
    "may be empty": dict(beam=9, min_len=0, unnormalized=True, temperature=4.0),
    "likes short": dict(beam=4, lenpen=0.2),
    "likes long": dict(beam=4, lenpen=2.5),
    "unnormalized": dict(beam=4, unnormalized=True),
    "no unknown words": dict(beam=4, unkpen=3.0),
    "many unknown words": dict(beam=4, unkpen=-3.0),
    "sharp": dict(beam=4, temperature=0.3),
    "flat": dict(beam=4, temperature=3.0),
    "no word twice": dict(beam=4, no_repeat_ngram_size=1),
    "no pair twice": dict(beam=4, no_repeat_ngram_size=2, max_len=12),
    "no triple twice": dict(beam=2, no_repeat_ngram_size=3, max_len=12),
    "forced": dict(beam=3, forced=(7, 8, 7)),
    "forced longer than allowed": dict(beam=3, forced=(7, 8, 9, 10), max_len=3),
    "forced to repeat": dict(beam=3, forced=(7, 8, 7, 8, 7), no_repeat_ngram_size=2),
    "all at once": dict(
        beam=4, min_len=2, max_len=9, lenpen=0.7, unkpen=0.5, temperature=1.3,
        no_repeat_ngram_size=2, forced=(5,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ensemble", [False, True], ids=["one model", "two models"])
def test_equals_the_reference(models, name, ensemble):
    settings = CASES[name]
    members = models if ensemble else models[:1]
    task = tiny_task(members[0].dictionary, POSITIONS)
    # different lengths in one batch; the last two come near the model's positions
    prompts = [r.tolist() for r in random_rows([4, 0, 1, 12, 9], seed=7)]
    options = {k: v for k, v in settings.items() if k not in ("forced", "max_len")}
    prefix_tokens = None
    if "forced" in settings:
        prefix_tokens = torch.tensor([settings["forced"]] * len(prompts))
    if settings.get("min_len", 1) > 3:
        prompts.pop(3)  # has no room for so many
        prefix_tokens = None if prefix_tokens is None else prefix_tokens[:-1]
    found = generate(
        task,
        members,
        prompts,
        prefix_tokens,
        max_len_b=settings.get("max_len", 8),
        nbest=options["beam"],
        **options,
    )
    for prompt, hypos in zip(prompts, found, strict=True):
        assert_same(hypos, reference(members, prompt, **settings))


def test_the_cases_are_worth_comparing(models):
    """Each option changes what is found, and hypotheses end by themselves and at the limit."""
    prompts = [r.tolist() for r in random_rows([4, 0, 1, 9, 3, 6], seed=7)]

    def found(**settings):
        return [[words for _, words in reference(models[:1], p, **settings)] for p in prompts]

    lengths = [len(words) for hypos in found(beam=4) for words in hypos]
    assert min(lengths) < 5 and max(lengths) == 9
    for name, settings in CASES.items():
        result = found(**settings)
        for option in settings.keys() - {"beam"} - ({"min_len"} if name == "no token" else set()):
            others = {key: value for key, value in settings.items() if key != option}
            assert found(**others) != result, (name, option)


def test_the_reference_finds_the_best_where_nothing_is_cut_off():
    """With a beam that holds every prefix, beam search is an enumeration."""
    model = tiny_model(tiny_dictionary(3), POSITIONS, seed=5)  # 7 symbols
    prompt, depth, scores = [4, 5, 6], 2, {}

    def visit(words, total):
        lprobs = log_probabilities((model,), (BEGIN, *prompt, *words), 1.0)
        for token, lprob in enumerate(lprobs):
            if token == END and words:
                scores[(*words, END)] = (total + lprob) / (len(words) + 1)
            elif token not in (PAD, END) and len(words) < depth:
                visit([*words, token], total + lprob)

    visit([], 0.0)
    expected = sorted(((score, list(words)) for words, score in scores.items()), reverse=True)
    assert reference([model], prompt, beam=40, max_len=depth) == expected
