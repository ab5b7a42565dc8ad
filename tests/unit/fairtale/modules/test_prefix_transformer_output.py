"""The projection to the vocabulary: untied, or to the first entries only; eps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairtale.generation.processors import WordSteering
from fairtale.modules.chunked_loss import chunked_cross_entropy, whole_cross_entropy
from fairtale.modules.ngram_blocking import block_repeated_ngrams
from fairtale.modules.unlikelihood import unlikelihood
from tests.helpers import build_transformer, random_rows, tiny_transformer

V, PREDICTED, PAD = 24, 21, 22


def leaves_of(output):
    """Return the parameters that the graph of ``output`` leads to."""
    seen, found, todo = set(), [], [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += [node.variable] if hasattr(node, "variable") else []
        todo += [following for following, _ in node.next_functions]
    return found


@pytest.mark.parametrize("untied_output", [False, True])
def test_entries_behind_the_predicted_ones_have_no_probability(untied_output):
    transformer = tiny_transformer(V, num_predicted=PREDICTED, untied_output=untied_output)
    features = transformer(torch.stack(random_rows([7, 7], V)))
    logits = transformer.logits(features)
    assert logits.shape == (2, 7, V)
    assert (logits[..., PREDICTED:] == -torch.inf).all()
    weight = transformer.output_weight()
    assert weight.shape == (PREDICTED, 16)
    torch.testing.assert_close(logits[..., :PREDICTED], features @ weight.t())
    own = transformer.output_projection
    if untied_output:
        assert weight is own.weight
    else:
        assert own is None and weight.data_ptr() == transformer.embed_tokens.weight.data_ptr()


def test_a_whole_vocabulary_is_projected_without_a_copy():
    transformer = tiny_transformer(V)
    assert transformer.output_weight() is transformer.embed_tokens.weight
    features = transformer(torch.stack(random_rows([7], V)))
    assert transformer.features_for_loss(features) is features


def test_the_graph_of_the_features_leads_to_an_untied_weight():
    """DDP would else take the weight for unused; its gradient is that of the loss alone."""
    transformer = tiny_transformer(V, untied_output=True)
    weight = transformer.output_weight()
    tokens = torch.stack(random_rows([7], V))
    features = transformer.features_for_loss(transformer(tokens))
    assert any(p is weight for p in leaves_of(features))
    F.linear(features, weight).square().sum().backward()
    found = {name: p.grad for name, p in transformer.named_parameters()}
    transformer.zero_grad()
    transformer.logits(transformer(tokens)).square().sum().backward()
    for name, parameter in transformer.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=name)


def test_initial_weights_of_an_untied_output():
    torch.manual_seed(0)
    weight = build_transformer(400, 1, 8, embed_dim=64, untied_output=True).output_weight()
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_eps_of_all_norms():
    transformer = tiny_transformer(V, layer_norm_eps=0.25)
    norms = [module for module in transformer.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 5 and {norm.eps for norm in norms} == {0.25}
    assert {m.eps for m in tiny_transformer(V).modules() if isinstance(m, nn.LayerNorm)} == {1e-5}


# ---------------------------------------------------- what uses the projection and its logits


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_losses_with_padding_outside_of_the_projection(eps):
    """The padding is not one of the projected symbols, so that q excludes none of them."""
    torch.manual_seed(1)
    features = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(PREDICTED, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randint(PREDICTED, (9,))
    expected = chunked_cross_entropy(features, weight, target, eps=eps, padding_idx=None)
    expected_grads = torch.autograd.grad(expected.loss, [features, weight])
    found = chunked_cross_entropy(features, weight, target, eps=eps, padding_idx=PAD)
    torch.testing.assert_close(found.loss, expected.loss)
    grads = torch.autograd.grad(found.loss, [features, weight])
    torch.testing.assert_close(grads, expected_grads)
    lprobs = F.linear(features, weight).log_softmax(-1)
    whole = whole_cross_entropy(lprobs, target, eps=eps, padding_idx=PAD)
    torch.testing.assert_close(whole.loss, expected.loss)


def test_unlikelihood_with_padding_outside_of_the_projection():
    torch.manual_seed(1)
    features, weight = torch.randn(3, 5), torch.randn(PREDICTED, 5)
    negatives = torch.tensor([[PAD, PAD], [4, PAD], [4, 20]])
    p = F.linear(features, weight).softmax(-1)
    expected = -((1 - p[1, 4]).log() + (1 - p[2, 4]).log() + (1 - p[2, 20]).log())
    torch.testing.assert_close(unlikelihood(features, weight, negatives, PAD), expected)


def test_processors_keep_impossible_tokens_impossible():
    transformer = tiny_transformer(V, num_predicted=PREDICTED)
    logits = transformer.logits(transformer(torch.stack(random_rows([4, 4], V))))[:, -1]
    tokens = torch.tensor([[2, 5, 6, 5], [2, 7, 7, 7]])
    lprobs = block_repeated_ngrams(tokens[:, 1:], logits.log_softmax(-1), 2)
    lprobs = WordSteering([[5], [6, 7]], 2.0)(lprobs, tokens, None)
    assert (lprobs[:, PREDICTED:] == -torch.inf).all()
    torch.testing.assert_close(lprobs.exp().sum(1), torch.ones(2))
