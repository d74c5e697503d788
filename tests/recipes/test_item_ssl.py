"""Item-SSL: which fields are hidden together, views that share nothing, and what each loss reaches."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import anyjepa
from anyjepa.core.contrastive import batch_softmax
from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.domains import domains
from anyjepa.domains.interaction_fields import Field
from anyjepa.domains.interaction_towers import FieldEmbeddings
from anyjepa.engine.loading import Steps
from anyjepa.engine.randomness import step_generator, uniforms
from anyjepa.engine.run import build_method
from anyjepa.recipes import recipe
from anyjepa.recipes.item_ssl import hidden_together

RECIPE = recipe("item-ssl")
DOMAIN = domains()["interactions"]


@pytest.fixture(scope="module")
def shop():
    samples = DOMAIN.open("synthetic-shop", reading=RECIPE().reading())
    return samples, DOMAIN.measure(samples)


def built(shop, batch_size=16, **fields):
    kind = RECIPE.preset("tiny", batch_size=batch_size, pairs=1, **fields)
    method = build_method(kind, shop[1], 0)
    return method, Steps(shop[0], kind, batch_size, 0, 4)[0][0], Context(1, 10, step_generator(0, 1))


@pytest.mark.parametrize(("fields", "hidden"), [(12, 7), (5, 3), (3, 2), (2, 1), (1, 1)])
def test_as_many_are_hidden_as_the_paper_says(fields, hidden):
    """|F_m| = 1 + floor(k / 2), but one field is always left."""
    found = hidden_together(np.random.default_rng(0).random((fields, fields)))
    assert (found.sum(axis=1) == hidden).all()
    assert found.diagonal().all()


def test_the_most_related_are_hidden():
    relations = np.zeros((6, 6))
    for a, b, value in [(0, 3, 0.9), (0, 5, 0.5), (0, 1, 0.4), (0, 2, 0.6)]:
        relations[a, b] = relations[b, a] = value
    assert np.flatnonzero(hidden_together(relations)[0]).tolist() == [0, 2, 3, 5]


@pytest.mark.parametrize("masking", ["correlated", "random"])
@pytest.mark.parametrize("pattern", ["batch", "row"])
def test_views_share_no_field(shop, masking, pattern):
    method, batch, context = built(shop, masking=masking, pattern=pattern)
    hidden = method.hidden(16, context.generator)
    fields = len(shop[1]["item_fields"])
    assert (hidden.sum(dim=1) == 1 + fields // 2).all()
    assert (len(hidden.unique(dim=0)) > 1) is (pattern == "row")
    tower = method.towers.items.fields
    with torch.no_grad():
        tower.default += torch.randn_like(tower.default)
        tower.default[:] = tower.default.abs() + 50
    first = tower(batch["codes"], batch["numbers"], hidden)
    second = tower(batch["codes"], batch["numbers"], ~hidden)
    default = tower.default.expand(16, -1, -1)
    assert torch.equal((first == default).all(dim=2), hidden), "in one view exactly those are the default"
    assert torch.equal((second == default).all(dim=2), ~hidden)


def test_each_seed_of_a_pattern_is_drawn_as_often(shop):
    method, _, _ = built(shop, pattern="row")
    hidden = method.hidden(6000, torch.Generator().manual_seed(0))
    patterns, counts = hidden.unique(dim=0, return_counts=True)
    wanted = method.together.unique(dim=0, return_counts=True)
    assert torch.equal(patterns, wanted[0])
    assert stats.chisquare(counts.numpy(), 6000 * wanted[1].numpy() / len(method.together)).pvalue > 1e-3


@given(share=st.floats(0.05, 0.9))
def test_values_of_lists_are_dropped_at_the_stated_rate(shop, share):
    method, batch, _ = built(shop, value_dropout=share)
    codes = batch["codes"].repeat(200, 1)
    dropped = method.dropped(codes, torch.Generator().manual_seed(1))
    lists = method.lists
    assert not dropped[:, ~lists].any()
    assert dropped[:, lists].float().mean().item() == pytest.approx(share, abs=0.02)


def test_a_list_of_which_nothing_is_left_is_hidden():
    fields = FieldEmbeddings([Field("tags", "list", ("a", "b"), 3, 3), Field("year", "number", slots=0)], 4)
    codes, numbers = torch.tensor([[1, 2, -1], [1, 2, -1]]), torch.tensor([[0.5], [float("nan")]])
    with torch.no_grad():
        fields.default += 1.0
    gone = torch.tensor([[True, False, False], [True, True, False]])
    found = fields(codes, numbers, None, gone)
    assert torch.allclose(found[0, 0], fields.values.weight[2])
    assert torch.equal(found[1], torch.ones(2, 4)), "dropped, and missing"
    assert torch.allclose(fields(codes, numbers)[0, 0], fields.values.weight[1:].mean(dim=0))


def test_nothing_is_hidden_or_dropped_in_use(shop):
    method, batch, _ = built(shop)
    method.eval()
    assert torch.equal(method.embed(batch), method.towers.items(batch["codes"], batch["numbers"]))
    assert torch.allclose(method.embed(batch).norm(dim=1), torch.ones(16))


def test_views_teach_the_tower_of_items_alone(shop):
    method, batch, context = built(shop)
    method(batch, context)["view_loss"].backward()
    assert method.towers.items.fields.values.weight.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in method.towers.items.parameters())
    assert all(p.grad is None for p in method.towers.queries.parameters())


def test_without_masks_a_view_is_told_from_others_only(shop):
    method, batch, context = built(shop, masking="none")
    losses = method(batch, context)
    assert losses["views_alike"].item() == pytest.approx(1)
    z = method.embed(batch)
    assert losses["view_loss"].item() == pytest.approx(batch_softmax(z, z, 0.1).item(), rel=1e-5)


def test_the_loss_is_the_sum_it_says(shop):
    method, batch, context = built(shop, alpha=0.7)
    found = method(batch, context)
    assert found["loss"].item() == pytest.approx((found["log_loss"] + 0.7 * found["view_loss"]).item())
    plain, _, _ = built(shop, alpha=0.0)
    assert "view_loss" not in plain(batch, context)
    first, _, _ = built(shop, pretrain=0.5)
    found = first(batch, context)
    assert found["loss"].item() == pytest.approx(0.2 * found["view_loss"].item())
    found = first(batch, context._replace(step=6))
    assert found["loss"].item() == pytest.approx((found["log_loss"] + 0.2 * found["view_loss"]).item())


def test_the_share_of_the_log_is_taken_off_in_training_only(shop):
    losses = {}
    for logq in (True, False):
        method, batch, context = built(shop, logq=logq)
        losses[logq] = method(batch, context)
    assert losses[True]["log_loss"] != losses[False]["log_loss"]
    assert losses[True]["view_loss"] == losses[False]["view_loss"]
    samples = shop[0]
    item = int(batch["positive_place"][0])
    assert math.exp(batch["log_probability"][0]) == pytest.approx(samples.counts[item] / len(samples.log))


def test_the_catalogue_is_drawn_evenly_and_the_log_as_it_is(shop):
    samples = shop[0]
    kind = replace(RECIPE.preset("tiny"), batch_size=250)
    steps = Steps(samples, kind, 250, 0, 6)
    batches = [steps[step][0] for step in range(6)]
    places = torch.cat([batch["place"] for batch in batches])
    assert places.sort().values.tolist() == list(range(1500)), "each item once an epoch, taken or not"
    drawn = samples.read_parts(np.zeros(20_000, np.int64), uniforms(0, 0, np.arange(20_000)))
    counts = np.bincount(drawn["positive"]["place"][:, 0], minlength=1500)
    often = samples.counts >= 40
    found, wanted = counts[often], samples.counts[often] * 20_000 / len(samples.log)
    rest = [20_000 - found.sum()], [20_000 - wanted.sum()]
    assert stats.chisquare(np.append(found, rest[0]), np.append(wanted, rest[1])).pvalue > 1e-3
    assert counts[samples.counts == 0].sum() == 0


def test_pairs_are_drawn_where_nothing_is_a_number():
    kind = RECIPE.preset("tiny", masking="none", pairs=2)
    samples = DOMAIN.open(np.array([[0, 5], [0, 6], [1, 5], [1, 7]]), reading=kind.reading())
    batch = kind.draw(
        samples.read_parts(np.array([0, 1, 2]), uniforms(0, 0, np.arange(3))), np.zeros((3, 16))
    )
    assert batch["codes"].shape == (3, 1) and batch["positive_codes"].shape == (6, 1)
    assert batch["numbers"].shape == (3, 0) and batch["query_numbers"].shape == (6, 0)
    method = kind.method(DOMAIN.measure(samples))
    assert torch.isfinite(method(batch, Context(1, 10, step_generator(0, 1)))["loss"])


def test_what_cannot_work_is_said():
    for fields, words in [
        ({"held_out": 1.0}, "--held-out is a share"), ({"temperature": 0.0}, "--temperature must be above 0"),
        ({"pairs": 9}, "--pairs is 1 to"), ({"alpha": -1.0}, "--alpha"), ({"columns": "a"}, "states no kind"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=words):
            RECIPE.preset("tiny", **fields)
    samples = DOMAIN.open(np.array([[0, 5], [0, 6], [1, 5], [1, 7]]))
    with pytest.raises(UserError, match="one field"):
        RECIPE.preset("tiny").method(DOMAIN.measure(samples))
    assert RECIPE.preset("tiny", masking="none").method(DOMAIN.measure(samples)).embed


@pytest.mark.slow
def test_views_help_items_that_were_never_taken(tmp_path):
    """Cold items: with views, their vectors come from fields that were learned with the id hidden."""
    found = {}
    for alpha in (0.0, 0.2):
        run = anyjepa.train(
            "item-ssl", out=tmp_path / str(alpha), settings=anyjepa.Settings(quiet=True, workers=0),
            alpha=alpha, cold=0.1,
        )["run"]  # fmt: skip
        found[alpha] = anyjepa.evaluate(run, probe="recommendation")["value"]
    assert found[0.2] > found[0.0]
