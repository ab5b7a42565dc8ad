"""Generation from prompts: batches, limits, sampling, and the refusal of bad options.

Beam search itself is compared with a reference in tests/parity/test_beam_search_reference.py.
"""

from argparse import Namespace

import pytest
import torch
from fairseq import utils
from fairseq.dataclass.configs import GenerationConfig

from fairtale.errors import UserError
from fairtale.generation.prefix_generator import PrefixGenerator, check_generation_options
from tests.helpers import generate, random_rows, tiny_dictionary, tiny_model, tiny_task

BEGIN, PAD, END = 0, 1, 2
POSITIONS = 16


@pytest.fixture(scope="module")
def model():
    made = tiny_model(max_positions=POSITIONS, seed=3)
    with torch.no_grad():
        made.transformer.layer_norm.bias[0] = 2.0
        made.transformer.embed_tokens.weight[END, 0] = 1.0  # generates EOS by itself sometimes
    return made


@pytest.fixture
def endless():
    """A model that never generates EOS by itself."""
    made = tiny_model(max_positions=POSITIONS, seed=3)
    with torch.no_grad():
        made.transformer.layer_norm.bias[0] = 20.0
        made.transformer.embed_tokens.weight[END, 0] = -5.0
    return made


@pytest.fixture(scope="module")
def task(model):
    return tiny_task(model.dictionary, POSITIONS)


def prompts_of(lengths, seed=7):
    return [row.tolist() for row in random_rows(lengths, seed=seed)]


def assert_same_hypotheses(found, expected):
    assert [h["tokens"].tolist() for h in found] == [h["tokens"].tolist() for h in expected]
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours["score"], theirs["score"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            ours["positional_scores"], theirs["positional_scores"], atol=1e-5, rtol=1e-5
        )


# ------------------------------------------------------------------- batches and limits


@pytest.mark.parametrize(
    "options",
    [
        dict(beam=1, max_len_b=15),
        dict(beam=4, max_len_b=15),
        dict(beam=3, max_len_b=5, min_len=2, lenpen=0.5),
        dict(beam=3, max_len_b=15, no_repeat_ngram_size=2, unkpen=1.0),
        dict(beam=2, max_len_a=0.5, max_len_b=1),
        dict(beam=4, diverse_beam_groups=2, max_len_b=15),
        dict(beam=3, diversity_rate=0.5, max_len_b=15),
    ],
    ids=lambda options: " ".join(options),
)
def test_who_shares_the_batch_changes_nothing(model, task, options):
    # the last two come near the model's positions
    prompts = prompts_of([4, 0, 1, 7, 13, 11])
    alone = [generate(task, [model], [p], **options)[0] for p in prompts]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1], [4, 4, 2, 0]):
        # numbers of a data set, far beyond the rows of a batch
        numbers = [100 * i + 7 for i in order]
        batch = generate(task, [model], [prompts[i] for i in order], ids=numbers, **options)
        for i, found in zip(order, batch, strict=True):
            assert_same_hypotheses(found, alone[i])
    lengths = {len(h["tokens"]) for hypos in alone for h in hypos}
    assert len(lengths) > 2  # they end at different steps


@pytest.mark.parametrize("options", [dict(beam=3), dict(beam=2, sampling=True, sampling_topk=5)])
def test_each_row_ends_at_its_own_limit(endless, options):
    task = tiny_task(endless.dictionary, POSITIONS)
    lengths = [4, 0, 1, 14, 11]
    found = generate(task, [endless], prompts_of(lengths), max_len_b=100, **options)
    for n, hypos in zip(lengths, found, strict=True):
        assert len(hypos) == options["beam"]
        for hypo in hypos:
            # BOS token, prompt and continuation fill the positions; EOS needs none
            assert 1 + n + len(hypo["tokens"]) - 1 == POSITIONS
            assert hypo["tokens"][-1] == END and END not in hypo["tokens"][:-1]
            assert hypo["score"].isfinite()


def test_max_len_counts_each_prompts_own_tokens(endless):
    task = tiny_task(endless.dictionary, POSITIONS)
    found = generate(task, [endless], prompts_of([3, 0, 6]), max_len_a=0.5, max_len_b=2)
    # with the BOS token: 4 / 2 + 2, int(1 / 2) + 2, int(7 / 2) + 2, and EOS
    assert [len(h[0]["tokens"]) - 1 for h in found] == [4, 2, 5]


def test_prompts_without_room_are_refused_in_one_line(model, task):
    generate(task, [model], prompts_of([14]))
    for prompts, options, words in (
        (prompts_of([15]), {}, "16 tokens leaves room for 0 .* 16 positions.*--min-len requires 1"),
        (prompts_of([2, 12]), {"min_len": 4}, "13 tokens leaves room for 3 .*--min-len requires 4"),
        (
            prompts_of([9, 2]),
            {"max_len_a": 0.5, "min_len": 4, "max_len_b": 2},
            "3 tokens leaves .* 3",
        ),
    ):
        with pytest.raises(UserError, match=words) as error:
            generate(task, [model], prompts, **options)
        assert "\n" not in str(error.value)


def test_the_score_is_the_models(model, task):
    for prompt in prompts_of([4, 0, 9]):
        for hypo in generate(task, [model], [prompt], beam=3, nbest=3)[0]:
            words = hypo["tokens"].tolist()
            with torch.no_grad():
                logits = model(torch.tensor([[BEGIN, *prompt, *words[:-1]]]))[0][0]
            lprobs = logits.log_softmax(-1)[len(prompt) :]
            expected = torch.stack([lp[word] for lp, word in zip(lprobs, words)])
            torch.testing.assert_close(hypo["positional_scores"], expected, atol=1e-5, rtol=1e-5)
            assert abs(hypo["score"] - expected.mean()) < 1e-5


def test_nbest_is_sorted_and_distinct(model, task):
    for hypos in generate(task, [model], prompts_of([4, 0, 1, 9]), beam=6, nbest=6):
        scores = [h["score"].item() for h in hypos]
        assert len(scores) == 6 and scores == sorted(scores, reverse=True)
        assert len({tuple(h["tokens"].tolist()) for h in hypos}) == 6


# -------------------------------------------------------------------------- forced words


def test_forced_words_are_written(model, task):
    prompts = prompts_of([4, 0, 1])
    forced = torch.tensor([[5, 6, 7], [8, 8, 8], [9, 10, PAD]])
    for options in ({}, {"sampling": True}, {"no_repeat_ngram_size": 1}):
        found = generate(task, [model], prompts, forced, beam=2, **options)
        for words, hypos in zip(forced, found):
            words = words[words != PAD]
            for hypo in hypos:
                assert torch.equal(hypo["tokens"][: len(words)], words)
                assert hypo["score"].isfinite()


def test_forcing_stops_where_the_positions_do(model, task):
    prompts = prompts_of([4, 12, 1])
    forced = torch.stack(random_rows([14] * 3, seed=2))
    found = generate(task, [model], prompts, forced, beam=3, max_len_b=200)
    for prompt, words, hypos in zip(prompts, forced, found):
        room = min(POSITIONS - 1 - len(prompt), 14)
        assert hypos[0]["tokens"][:room].tolist() == words[:room].tolist()
        assert hypos[0]["tokens"][-1] == END


# ------------------------------------------------------------------------------ sampling


def distribution(model, prompt, temperature=1.0):
    with torch.no_grad():
        logits = model(torch.tensor([[BEGIN, *prompt]]))[0][0, -1].double()
    return torch.softmax(logits / temperature, -1)


def first_words(task, model, prompt, count=6000, **options):
    """Return how often each word was sampled first, as fractions [V]."""
    beam = 20
    torch.manual_seed(1)
    found = generate(
        task, [model], [prompt] * (count // beam), beam=beam, sampling=True, max_len_b=1, **options
    )
    words = torch.stack([h["tokens"][0] for hypos in found for h in hypos])
    return torch.bincount(words, minlength=24) / len(words)


def distance(p, q):
    """Return the total variation distance of two distributions."""
    return (p - q).abs().sum().item() / 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits(model, task, temperature):
    prompt = [4, 9, 11]
    found = first_words(task, model, prompt, min_len=0, temperature=temperature)
    expected = distribution(model, prompt, temperature)
    assert distance(found, expected) < 0.03
    assert distance(found, distribution(model, prompt, 1.6 * temperature)) > 0.06


@pytest.mark.parametrize("topk", [1, 3, 8])
def test_topk_draws_of_the_k_best(model, task, topk):
    prompt, temperature = [4, 9, 11], 1.5
    probs = distribution(model, prompt, temperature)
    probs[[PAD, END]] = 0  # min_len is 1
    best = probs.topk(topk)
    expected = torch.zeros(24, dtype=torch.double).index_put((best.indices,), best.values)
    found = first_words(task, model, prompt, sampling_topk=topk, temperature=temperature)
    assert set(found.nonzero()[:, 0].tolist()) == set(best.indices.tolist())
    assert distance(found, expected / expected.sum()) < 0.03


@pytest.mark.parametrize("topp", [0.2, 0.6, 0.95])
def test_topp_draws_of_the_nucleus(model, task, topp):
    prompt, temperature = [4, 9, 11], 1.5
    probs = distribution(model, prompt, temperature).tolist()
    ranked = sorted(enumerate(probs), key=lambda x: -x[1])
    nucleus, mass = {}, 0.0
    while mass < topp:  # the smallest set of at least this probability
        token, prob = ranked[len(nucleus)]
        nucleus[token] = prob
        mass += prob
    assert 1 <= len(nucleus) < 20
    found = first_words(task, model, prompt, min_len=0, sampling_topp=topp, temperature=temperature)
    assert set(found.nonzero()[:, 0].tolist()) <= set(nucleus)
    expected = torch.tensor([nucleus.get(i, 0.0) for i in range(24)]) / mass
    assert distance(found, expected) < 0.03


def test_later_words_are_drawn_of_the_k_best_too(model, task):
    torch.manual_seed(1)
    prompt = [4, 9]
    options = dict(beam=8, sampling=True, sampling_topk=2, temperature=2.0)
    found = generate(task, [model], [prompt] * 5, **options)
    for hypo in (h for hypos in found for h in hypos):
        words = hypo["tokens"].tolist()
        for i, word in enumerate(words[:-1]):
            probs = distribution(model, [*prompt, *words[:i]])
            probs[[PAD] if i else [PAD, END]] = 0
            assert word in probs.topk(2).indices


def test_the_seed_decides(model, task):
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        hypos = generate(task, [model], prompts_of([4, 0, 7]), beam=3, sampling=True)
        found.append([[h["tokens"].tolist() for h in row] for row in hypos])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("limit", [{}, {"sampling_topk": 3}, {"sampling_topp": 0.9}])
def test_low_temperatures_are_greedy_up_to_the_limit(endless, limit):
    """At the limit only EOS is allowed, and its probability underflows; fairseq fails."""
    task = tiny_task(endless.dictionary, POSITIONS)
    prompts = prompts_of([4, 0, 12])
    greedy = generate(task, [endless], prompts, max_len_b=9)
    cold = generate(task, [endless], prompts, max_len_b=9, sampling=True, temperature=0.01, **limit)
    for found, expected in zip(cold, greedy):
        assert found[0]["tokens"].tolist() == expected[0]["tokens"].tolist()
        assert found[0]["score"].isfinite() and found[0]["score"] < -60


def test_more_than_all_words_are_all(model, task):
    found = first_words(task, model, [4, 9, 11], sampling_topk=1000, min_len=0)
    assert distance(found, distribution(model, [4, 9, 11])) < 0.03


# ------------------------------------------------------------------- groups and ensembles


def test_groups_of_beams_differ(model, task):
    prompts = prompts_of([4, 0, 9])
    options = dict(beam=4, nbest=4, diverse_beam_groups=4)
    same = generate(task, [model], prompts, diverse_beam_strength=0.0, **options)
    greedy = generate(task, [model], prompts, beam=1)
    for hypos, best in zip(same, greedy):
        assert all(h["tokens"].tolist() == best[0]["tokens"].tolist() for h in hypos)
    options |= dict(diverse_beam_strength=100.0, ids=[900, 5, 77])
    other = generate(task, [model], prompts, **options)
    for hypos in other:
        assert len({h["tokens"][0].item() for h in hypos}) == 4


def test_an_ensemble_averages_probabilities(model, task):
    other = tiny_model(model.dictionary, POSITIONS, seed=4)
    prompt = [4, 9, 11]
    (twice,) = generate(task, [model, model], [prompt], beam=3, nbest=3)
    (once,) = generate(task, [model], [prompt], beam=3, nbest=3)
    assert_same_hypotheses(twice, once)
    (both,) = generate(task, [model, other], [prompt], beam=3)
    mean = (distribution(model, prompt) + distribution(other, prompt)) / 2
    first = both[0]["tokens"][0]
    torch.testing.assert_close(both[0]["positional_scores"][0], mean[first].log().float())


def test_the_shortest_member_of_an_ensemble_sets_the_limit(endless):
    shorter = tiny_model(endless.dictionary, POSITIONS - 4, seed=4)
    task = tiny_task(endless.dictionary, POSITIONS - 4)
    found = generate(task, [endless, shorter], prompts_of([3, 7]), beam=2, max_len_b=100)
    longest = [max(len(h["tokens"]) for h in hypos) for hypos in found]
    assert longest[0] <= POSITIONS - 4 - 4 + 1 and longest[1] <= POSITIONS - 4 - 8 + 1


def test_no_ngram_is_repeated(endless):
    task = tiny_task(endless.dictionary, POSITIONS)

    def repeated(size, **options):
        found = generate(task, [endless], prompts_of([2, 0, 5]), beam=3, max_len_b=15, **options)
        rows = [h["tokens"].tolist() for hypos in found for h in hypos]
        grams = [[tuple(r[i : i + size]) for i in range(len(r) - size + 1)] for r in rows]
        return sum(len(g) - len(set(g)) for g in grams)

    for size in (1, 2, 3):
        assert repeated(size) > 0
        assert repeated(size, no_repeat_ngram_size=size) == 0


# -------------------------------------------------------------------------------- options


def test_plain_options_are_accepted():
    check_generation_options(Namespace())
    check_generation_options(Namespace(beam=4, nbest=4, sampling=False, max_len_b=None))
    check_generation_options(Namespace(sampling=True, sampling_topk=1, temperature=0.1))
    check_generation_options(Namespace(beam=4, diverse_beam_groups=2))
    check_generation_options(GenerationConfig())


def test_all_mistakes_are_named_at_once():
    with pytest.raises(UserError, match="--temperature 0.*--nbest 9.*--min-len -2"):
        check_generation_options(Namespace(temperature=0, nbest=9, min_len=-2))


def test_the_task_builds_this_generator(model, task):
    generator = task.build_generator([model], Namespace(beam=3))
    assert isinstance(generator, PrefixGenerator)
    assert {BEGIN, END} <= generator.symbols_to_strip_from_output
    with pytest.raises(UserError, match="--beam 0"):
        task.build_generator([model], Namespace(beam=0))
    with pytest.raises(UserError, match="--match-source-len"):
        task.build_generator([model], Namespace(match_source_len=True))


def test_wider_than_the_vocabulary(task):
    small = tiny_model(tiny_dictionary(3), POSITIONS)
    (hypos,) = generate(tiny_task(small.dictionary), [small], [[4, 5]], beam=50, nbest=50)
    assert len(hypos) == 6  # one less than the number of symbols


@pytest.mark.gpu
@pytest.mark.parametrize("options", [dict(beam=4), dict(no_repeat_ngram_size=2, max_len_a=1)])
def test_gpu_writes_what_the_cpu_writes(options):
    cpu = tiny_model(max_positions=POSITIONS, seed=3)
    gpu = tiny_model(cpu.dictionary, POSITIONS, seed=3).cuda()
    task = tiny_task(cpu.dictionary, POSITIONS)
    prompts = prompts_of([4, 0, 1, 7, 13, 11])
    dataset = task.build_dataset_for_inference([torch.tensor(p).long() for p in prompts], None)
    sample = dataset.collater([dataset[i] for i in range(6)])
    expected = generate(task, [cpu], prompts, **options)
    generator = task.build_generator([gpu], Namespace(**{"beam": 1, "max_len_b": 8, **options}))
    sample = utils.move_to_cuda(sample)  # with the ids, as fairseq-generate does
    for found, theirs in zip(task.inference_step(generator, [gpu], sample), expected):
        assert [h["tokens"].tolist() for h in found] == [h["tokens"].tolist() for h in theirs]
