"""Point-JEPA by the exact checks of its note."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.core.objectives import smooth_l1
from anyjepa.core.points import farthest_points, normalised, outermost
from anyjepa.domains.point_patches import PatchNetwork, PointPatches
from anyjepa.engine.optimiser import build_optimiser
from anyjepa.recipes import recipe

SMALL = {
    "points": 96, "candidates": 96, "groups": 16, "neighbours": 8, "patch_widths": (8, 16),
    "width": 24, "depth": 2, "heads": 2, "position_width": 12,
    "predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2,
}  # fmt: skip
FACTS = {"channels": 0, "channel_mean": [], "channel_std": [], "points": 96, "radius": 1.0}


def small_recipe(**fields):
    return recipe("point-jepa").preset("tiny", **{**SMALL, **fields})


def small_method(seed=0, facts=FACTS, **fields):
    torch.manual_seed(seed)
    return small_recipe(**fields).method(facts)


def clouds(count=6, points=96, columns=3, seed=0):
    return {"points": torch.randn(count, points, columns, generator=torch.Generator().manual_seed(seed))}


def context(step=1, seed=0):
    return Context(step, 10, torch.Generator().manual_seed(seed))


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.fixture(scope="module")
def published():
    with torch.device("cpu"):
        return recipe("point-jepa").preset("paper").method(FACTS)


def test_parameter_counts_are_those_of_the_paper(published):
    """Exact check 12. The released predictor has a layer norm of 384 numbers that it never uses."""
    encoder = published.encoder
    assert count(encoder.trunk) == 21_294_336
    assert count(encoder.tokenizer) == 493_824
    assert count(encoder.positions) == 50_048
    assert count(encoder) == 21_838_208
    assert count(published.predictor) == 2_843_456 - 384
    assert count(published.target) == 21_294_336


def test_the_numbers_of_the_blocks_are_those_of_the_paper(published):
    rates = [block.drop[1].rate for block in published.encoder.trunk.blocks]
    assert rates == pytest.approx(np.linspace(0, 0.25, 12).tolist())
    assert {block.drop[1].rate for block in published.predictor.blocks} == {0.25}
    assert {block.drop[0].p for block in published.encoder.trunk.blocks} == {0.1}
    assert {block.attention.dropout for block in published.predictor.blocks} == {0.05}
    assert not published.predictor.mask_token.any()


def test_shapes_are_those_of_the_paper(published):
    """Exact check 1."""
    batch = clouds(2, 1200)
    published.eval()
    with torch.no_grad():
        tokens = published.tokens(batch)
        assert tokens.values.shape == (2, 64, 384)
        assert tokens.coordinates.shape == (2, 64, 3)
        assert published.embed(batch).shape == (2, 768)
        masks = published.masks(batch, context())
        seen = published.seen(tokens, published.encoder.positions(tokens.coordinates), masks)
        guess = published.predictor(seen, tokens.coordinates, masks)
    assert guess.shape == (*masks.targets.shape, 384)
    assert masks.targets.shape[:2] == (2, 4)


def test_no_order_of_the_points_changes_an_embedding_and_no_place_or_size_does():
    """Exact check 3."""
    method, batch = small_method(points=48).eval(), clouds()
    with torch.no_grad():
        known = method.embed(batch)
        shuffled = {"points": batch["points"][:, torch.randperm(96)]}
        assert torch.allclose(method.embed(shuffled), known, atol=1e-5)
        assert torch.allclose(method.embed({"points": 3 * batch["points"] + 5}), known, atol=1e-4)


def test_moving_a_cloud_moves_the_centres_and_leaves_the_patches():
    patches, cloud = PointPatches(8, 24), clouds(2)["points"].double()
    centres = farthest_points(cloud, 5, outermost(cloud))
    here, middle = patches.patches(cloud, centres)
    there, moved = patches.patches(cloud + 2.0, centres)
    assert torch.allclose(here, there, atol=1e-12)
    assert torch.allclose(moved, middle + 2.0)
    assert not here[:, :, 0].any(), "the centre itself is the first of its patch"


def test_patches_of_a_ball_are_in_units_of_its_radius():
    cloud = clouds(2)["points"]
    centres = farthest_points(cloud, 5, outermost(cloud))
    near, _ = PointPatches(8, 24, radius=0.5).patches(cloud, centres)
    assert near.norm(dim=3).max() <= 1 + 1e-5


def test_the_patch_network_is_the_published_chain_of_convolutions():
    torch.manual_seed(0)
    ours, points = PatchNetwork(3, (8, 16), 24).eval(), torch.randn(2, 5, 7, 3)
    for norm in (ours.rise_norm, ours.mix_norm):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    first, second, third, fourth = (
        torch.nn.Conv1d(layer.in_features, layer.out_features, 1, bias=layer.bias is not None)
        for layer in (ours.rise, ours.local, ours.mix, ours.out)
    )
    for theirs, mine in zip(
        (first, second, third, fourth), (ours.rise, ours.local, ours.mix, ours.out), strict=True
    ):
        theirs.load_state_dict(
            {name: v[..., None] if v.ndim == 2 else v for name, v in mine.state_dict().items()}
        )
    x = points.flatten(0, 1).mT
    x = second(torch.relu(ours.rise_norm(first(x))))
    x = torch.cat([x.amax(2, keepdim=True).expand_as(x), x], dim=1)
    x = fourth(torch.relu(ours.mix_norm(third(x)))).amax(2).unflatten(0, (2, 5))
    assert torch.allclose(ours(points), x, atol=1e-5)


def test_the_loss_of_known_distances_is_known():
    """Exact check 8."""
    for distance, loss in [(1.0, 0.25), (2.0, 1.0), (4.0, 3.0)]:
        assert smooth_l1(torch.tensor([distance]), torch.zeros(1), 2.0).item() == loss
    assert recipe("point-jepa").preset("paper").beta == 2.0


@pytest.mark.parametrize("blocks", ["last", "1"])
def test_targets_of_one_block_have_mean_0_and_variance_1(blocks):
    """Exact check 9: then zeros are wrong by 1 for each element, in squares."""
    method, batch = small_method(target_blocks=blocks), clouds()
    tokens = method.encoder.patched(batch)
    goal = method._targets(tokens.values, method.encoder.positions(tokens.coordinates))
    assert torch.allclose(goal.mean(-1), torch.zeros(6, 16), atol=1e-5)
    assert torch.allclose(goal.square().mean(-1), torch.ones(6, 16), atol=1e-3)


def test_a_target_is_what_the_last_block_leaves_before_the_last_norm():
    method, batch = small_method().eval(), clouds()
    left = []
    method.target.encoder.blocks[-1].register_forward_hook(lambda _m, _i, out: left.append(out))
    tokens = method.encoder.patched(batch)
    goal = method._targets(tokens.values, method.encoder.positions(tokens.coordinates))
    assert torch.equal(goal, functional.layer_norm(left[0], (24,)))
    several = small_method(target_blocks="1,2").eval()
    tokens = several.encoder.patched(batch)
    added = several.encoder.positions(tokens.coordinates)
    found = [several.encoder.trunk.targets(tokens.values, added, (block,)) for block in (0, 1)]
    assert torch.allclose(several._targets(tokens.values, added), torch.stack(found).mean(0))


def test_positions_are_added_before_every_block():
    method = small_method().eval()
    inputs = []
    for block in method.encoder.trunk.blocks:
        block.register_forward_hook(lambda _m, args, out: inputs.append((args[0], out)))
    tokens = method.encoder.patched(clouds())
    added = method.encoder.positions(tokens.coordinates)
    method.encoder(clouds())
    assert torch.allclose(inputs[0][0], tokens.values + added)
    assert torch.allclose(inputs[1][0], inputs[0][1] + added)


def test_gradients_reach_the_tokenizer_and_never_the_teacher():
    """Exact check 10, first half."""
    method = small_method()
    method(clouds(), context())["loss"].backward()
    assert all(p.grad is None for p in method.target.parameters())
    for part in (method.encoder.tokenizer, method.encoder.positions, method.encoder.trunk, method.predictor):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters())


def test_what_lies_in_targets_only_is_not_seen():
    """Exact check 10, second half: batch norm in evaluation mode, bit for bit."""
    method, batch = small_method().eval(), clouds()
    tokens = method.encoder.patched(batch)
    added = method.encoder.positions(tokens.coordinates)
    masks = method.hidden(tokens.coordinates, context().generator)
    values = tokens.values.clone()
    rows = torch.arange(6)[:, None].expand(-1, masks.targets[0].numel())
    values[rows, masks.targets.flatten(1)] += 100.0
    changed = dataclasses.replace(tokens, values=values)
    before, after = (method.seen(t, added, masks).values for t in (tokens, changed))
    assert torch.equal(before, after)


def test_padding_of_a_context_changes_nothing_that_is_predicted():
    method = small_method().eval()
    tokens = method.encoder.patched(clouds())
    added = method.encoder.positions(tokens.coordinates)
    masks = method.hidden(tokens.coordinates, context().generator)
    assert not masks.present.all()
    whole = method.predictor(method.seen(tokens, added, masks), tokens.coordinates, masks)
    for row in range(6):
        kept = masks.present[row]
        one = type(tokens)(tokens.values[[row]], tokens.coordinates[[row]])
        bare = type(masks)(masks.context[[row]][:, kept], masks.targets[[row]], masks.relaxed[[row]])
        seen = method.seen(one, added[[row]], bare)
        assert torch.allclose(method.predictor(seen, one.coordinates, bare), whole[[row]], atol=1e-5)


def test_the_teacher_is_copied_twice_and_then_moves_by_its_momentum():
    """Exact check 11."""
    method = small_method(momentum=(0.9995, 0.99999))
    with torch.no_grad():
        for parameter in method.encoder.trunk.parameters():
            parameter.add_(1.0)
    pairs = list(zip(method.target.parameters(), method.encoder.trunk.parameters(), strict=True))
    for step in (1, 2):
        method.after_step(context(step))
        assert all(torch.equal(theirs, mine) for theirs, mine in pairs)
        with torch.no_grad():
            for _, mine in pairs:
                mine.add_(1.0)
    before = [theirs.clone() for theirs, _ in pairs]
    method.target.end = method.target.start
    method.after_step(context(3))
    for (after, mine), was in zip(pairs, before, strict=True):
        assert torch.allclose(after - was, 0.0005 * (mine - was), atol=1e-6)
    target = recipe("point-jepa").preset("tiny", momentum=(0.9995, 0.99999)).method(FACTS).target
    assert target.momentum(0.5) == pytest.approx((0.9995 + 0.99999) / 2)


def test_every_sample_is_stretched_and_turned_by_itself_unless_as_published():
    batch = {"points": clouds(1)["points"].expand(4, -1, -1)}["points"]
    own = small_method().varied(batch, torch.Generator().manual_seed(0))
    shared = small_method(published=True).varied(batch, torch.Generator().manual_seed(0))
    assert not torch.allclose(own[0], own[1], atol=1e-3)
    assert torch.equal(shared[0], shared[1])


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_a_turn_keeps_heights_and_distances(up):
    batch = clouds()["points"].double()
    turned = small_method(up=up, scale=(1.0, 1.0)).varied(batch, torch.Generator().manual_seed(0))
    still = normalised(batch)
    axis = "xyz".index(up)
    assert torch.allclose(turned[..., axis], still[..., axis])
    assert torch.allclose(torch.cdist(turned, turned), torch.cdist(still, still), atol=1e-7)
    assert not torch.allclose(turned, still, atol=0.1)
    assert torch.linalg.det((still.mT @ still).inverse() @ still.mT @ turned).min() > 0, "mirrored"


def test_the_teacher_drops_nothing_out_while_the_student_does():
    method = small_method(dropout=0.3, drop_path=0.3)
    method.train()
    assert method.encoder.trunk.training and not method.target.encoder.training
    tokens = method.encoder.patched(clouds())
    added = method.encoder.positions(tokens.coordinates)
    assert torch.equal(*(method._targets(tokens.values, added) for _ in range(2)))
    assert not torch.equal(*(method.encoder.trunk(tokens.values, added) for _ in range(2)))


def test_running_statistics_move_once_a_step_and_travel_with_the_encoder():
    method = small_method()
    method.train()
    method(clouds(), context())
    state = method.backbone.state_dict()
    assert state["tokenizer.network.rise_norm.num_batches_tracked"] == 1
    assert state["tokenizer.network.rise_norm.running_mean"].any()


def test_centres_of_the_kept_points_are_those_of_all_points():
    """What lets a page colour a cloud by patch without the encoder."""
    method, batch = small_method(points=48).eval(), clouds()
    places, centres = batch["points"], farthest_points(batch["points"], 16, outermost(batch["points"]))
    kept = farthest_points(places, 48, outermost(places))
    cloud = normalised(places.gather(1, kept[..., None].expand(-1, -1, 3)))
    assert torch.equal(kept[:, :16], centres)
    assert torch.allclose(method.tokens(batch).coordinates, cloud[:, :16])


@pytest.mark.parametrize("sequence", ["greedy", "from-first", "morton"])
def test_runs_follow_the_sequence(sequence):
    method, batch = small_method(sequence=sequence).eval(), clouds()
    centres = method.tokens(batch).coordinates
    masks, order = method.masks(batch, context()), method.order(centres)
    place = order.argsort(dim=1)
    positions = place.gather(1, masks.targets.flatten(1)).view_as(masks.targets)
    assert (positions.diff(dim=2) == 1).all()


def test_channels_are_standardised_and_used():
    facts = {**FACTS, "channels": 2, "channel_mean": [100.0, 0.5], "channel_std": [50.0, 0.0]}
    method = small_method(facts=facts, channels=2).eval()
    batch = clouds(columns=5)
    other = {"points": batch["points"].clone()}
    other["points"][..., 3] += 30.0
    assert not torch.allclose(method.embed(batch), method.embed(other))
    scaled = small_method(
        facts={**facts, "channel_mean": [200.0, 0.5], "channel_std": [100.0, 0.0]}, channels=2
    )
    doubled = {"points": batch["points"] * torch.tensor([1, 1, 1, 2.0, 1])}
    assert torch.allclose(scaled.eval().embed(doubled), method.embed(batch), atol=1e-5)
    method(batch, context())["loss"].backward()


@pytest.mark.parametrize(("teacher", "through"), [("none", False), ("collapse", True)])
def test_gradients_pass_through_the_targets_only_where_collapse_is_asked_for(teacher, through):
    method = small_method(teacher=teacher)
    tokens = method.encoder.patched(clouds())
    goal = method._targets(tokens.values, method.encoder.positions(tokens.coordinates))
    assert goal.requires_grad == through
    assert method.scheduled(context()) == {}


def test_decay_is_on_everything_as_released_or_spares_norms():
    for decay in ("all", "matrices"):
        method = small_method()
        groups = build_optimiser(method, small_recipe(decay=decay)).param_groups
        decayed = [p for group in groups if group["decayed"] for p in group["params"]]
        vectors = [p for p in method.parameters() if p.requires_grad and p.ndim == 1]
        assert vectors
        assert any(p is vector for p in decayed for vector in vectors) == (decay == "all")
    assert recipe("point-jepa").preset("paper").decay == "all"


def test_views_are_pooled_over_what_is_seen_and_differ():
    method, batch = small_method().eval(), clouds()
    views = method.views(batch, context(), 5)
    assert views.shape == (6, 5, 48)
    assert torch.isfinite(views).all()
    assert not torch.allclose(views[:, 0], views[:, 1])


def test_draws_repeat_few_points_and_choose_of_many():
    kind = small_recipe()
    few, many = (np.random.default_rng(0).random((n, 3)).astype(np.float32) for n in (40, 500))
    uniforms = np.random.default_rng(1).random((2, 16))
    drawn, again = (kind.draw([few, many], uniforms)["points"] for _ in range(2))
    assert torch.equal(drawn, again)
    assert drawn.shape == (2, 96, 3)
    counts = np.unique(drawn[0].numpy(), axis=0, return_counts=True)[1]
    assert len(counts) == 40 and set(counts) == {2, 3}
    assert len(drawn[1].unique(dim=0)) == 96
    shown = kind.present([few, many])["points"]
    assert torch.equal(shown[1:], kind.present([many])["points"]), "another sample changes what is shown"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 25}, "--width 25 does not divide into --heads 2"),
        ({"candidates": 50}, "--points 96 cannot be chosen from --candidates 50"),
        ({"groups": 200}, "--groups must lie between 2 and --points 96"),
        ({"neighbours": 1}, "--neighbours must lie between 2"),
        ({"scale": (1.2, 0.8)}, "--scale 1.2 0.8 must be above 0 and rise"),
        ({"radius": -1.0}, "cannot be below 0"),
        ({"target_ratio": (0.5, 0.2)}, "these masks cannot be drawn"),
        ({"target_blocks": "3"}, "numbers from 1 to 2"),
        ({"target_blocks": "one"}, "not 'one'"),
    ],
)
def test_numbers_that_cannot_work_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        small_recipe(**fields)
