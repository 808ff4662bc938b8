"""first_divergence: one definition per prompt, so that inner rewards in training and in scoring agree."""

from dataclasses import replace

import pytest
import torch

from innerpo.config.run import default_run
from innerpo.data.batching.batch import make_batch
from innerpo.data.divergence import first_divergence, with_divergence_of
from innerpo.data.pairs import PreferencePair, choose_negatives, cluster_of
from innerpo.data.tokens import PairTokenizer, PromptItem
from innerpo.evaluation.prepared import tokenise_sets
from innerpo.evaluation.sets import EvaluationSet
from innerpo.model.forward.outputs import StateRequest, sequence_outputs
from innerpo.model.reference import compute_reference
from innerpo.training.prepare import training_items


def with_siblings(n=6):
    """Prompts with three rejected responses that leave the chosen one at different tokens."""
    pairs = []
    for i in range(n):
        prompt, chosen = f"Question {i}: which is larger, {i} or 9?\nAnswer:", " the larger one is 9, I think"
        rejected = (f" the larger one is {i}, I think", " the cat sat on the mat", " the larger cat ran")
        pairs += [
            PreferencePair(prompt, chosen, worse, f"p/{i}/{j}", "p", "train", cluster_of(prompt))
            for j, worse in enumerate(rejected)
        ]
    return pairs


@pytest.mark.parametrize("negatives", ["one", "all"])
@pytest.mark.parametrize("layout", ["one_row", "concatenated"])
def test_pooled_states_of_training_and_scoring_agree(toy, negatives, layout):
    """A response has the same pooled state, hence inner reward, whichever of its prompt's pairs are trained on."""
    pairs = with_siblings()
    config = default_run("innerpo")
    config = replace(
        config,
        method=replace(config.method, pool="first_divergence"),
        data=replace(config.data, negatives=negatives),
    )
    request = StateRequest((1, 3), "first_divergence")

    def states(items):
        found = {}
        for item in items:
            with torch.no_grad():
                pooled = sequence_outputs(toy.model, make_batch([item], layout, 0), request).pooled
            for k, response in enumerate(item.responses):
                found.setdefault((item.cluster, response), []).append(pooled[:, k])
        return found

    scored = states(PairTokenizer(toy.tokenizer, 64, 64).scoring_items(pairs))
    trained = states(training_items(config, toy, pairs))
    assert len(trained) >= 12
    for key, versions in trained.items():
        for version in versions:
            torch.testing.assert_close(version, scored[key][0], atol=1e-5, rtol=1e-5)


def test_one_negative_a_prompt_is_scored_from_the_same_divergence(toy):
    """A response's inner reward does not depend on which of its prompt's others are scored beside it."""
    config = default_run("innerpo")
    config = replace(config, method=replace(config.method, pool="first_divergence"))
    every = tuple(with_siblings())
    starts = []
    for negatives, pairs in (("all", every), ("one", tuple(choose_negatives(every, "one", 0)))):
        own = replace(config, eval=replace(config.eval, negatives=negatives))
        (items,) = tokenise_sets([EvaluationSet("x", "x", "test", "extra", "", pairs, every=every)], toy, own).values()
        starts.append([(item.cluster, len(item.prompt) + first_divergence(item)) for item in items])
    assert starts[0] == starts[1]
    assert len({len(item.responses) for item in items}) == 1 < len(every) / len(items)


def test_divergence_by_hand():
    def item(*responses, prompt=(1, 2), divergence=None):
        return PromptItem(prompt, responses, (1,) * len(responses), ((0, 1, "a"),), "c", divergence)

    pair = item((5, 6, 7, 8), (5, 6, 9))
    assert first_divergence(pair) == 2
    assert first_divergence(item((5, 6), (5, 6, 7))) == 2
    assert first_divergence(item((5, 6, 7, 8), (5, 6, 9), divergence=1)) == 1
    (found,) = with_divergence_of([pair], [item((5, 6, 7, 8), (5, 6, 9), (5, 4))])
    assert found == replace(pair, divergence=1)
    # the sibling's tokens merge with the end of the prompt: the first two differ there already
    (found,) = with_divergence_of([pair], [item((2, 5, 6, 7, 8), (2, 5, 6, 9), (3, 4), prompt=(1,))])
    assert found.divergence == 0
    (found,) = with_divergence_of([pair], [item((2, 5, 6, 7, 8), (2, 5, 6, 9), (2, 5, 4), prompt=(1,))])
    assert found.divergence == 1
    other = replace(pair, cluster="d")
    assert with_divergence_of([other], [pair]) == [other]


def test_cached_states_are_those_of_the_same_divergence(toy, tmp_path):
    items = PairTokenizer(toy.tokenizer, 64, 64).training_items(with_siblings())
    where = {"batch_size": 4, "cache_dir": tmp_path, "what": "toy"}

    def pooled(items, pool):
        return compute_reference(toy, items, "one_row", StateRequest((1,), pool), **where).pooled

    earlier = [replace(item, divergence=0) for item in items]
    assert not torch.equal(pooled(items, "first_divergence"), pooled(earlier, "first_divergence"))
    torch.testing.assert_close(pooled(earlier, "first_divergence"), pooled(items, "mean"))
