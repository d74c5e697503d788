"""DSeq-JEPA by the exact checks of its note, and with the defects of the released code put back in."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import FIELDS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.core.regions import Regions
from anyjepa.core.targets import EmaTeacher
from anyjepa.core.tokens import Tokens, take
from anyjepa.engine.randomness import step_generator
from anyjepa.recipes import dseq_jepa, recipe

GREY = {"channels": 1, "mean": [127.0], "std": [70.0]}
SMALL = {**FIELDS, "image_size": (24, 24), "regions": 4, "least_region": 0.1, "curriculum": (1.0, 1.0)}
GRID = (6, 6)


def small_method(seed=0, name="dseq-jepa", **fields):
    torch.manual_seed(seed)
    return recipe(name).preset("tiny", **{**SMALL, **fields}).method(GREY)


def context(step=1, steps=10, seed=0):
    return Context(step, steps, step_generator(seed, step))


def images(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (count, 1, 24, 24), generator=generator, dtype=torch.uint8)}


def islands(count=6, found=3):
    """Saliency maps of `found` regions, each a row and less salient than the one before."""
    saliency = torch.zeros(count, *GRID)
    for place, value in enumerate((1.0, 0.8, 0.6)[:found]):
        saliency[:, 2 * place] = value
    return saliency.flatten(1)


def stands_out(method, saliency):
    """The method, in whose eyes every image is as salient as the map says."""
    method._saliency = lambda encoder, inner: saliency[: len(inner)]
    return method


def inked(batch, ranks, rank):
    """The batch with the pixels of all patches of a rank changed."""
    place = (ranks == rank).view(-1, 1, *GRID)
    changed = place.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return {"image": torch.where(changed, 255 - batch["image"], batch["image"])}


def check_what_is_read(method):
    """Exact checks 4, 5 and 6: each region is predicted from all regions before it and from no other."""
    batch = images()
    ranks = method.ranks(method.regions(islands()), context())
    assert ranks.unique().tolist() == [0, 1, 2, 3]
    with torch.no_grad():
        first = method.predicted(batch, ranks)
        for changed in range(4):
            again = method.predicted(inked(batch, ranks, changed), ranks)
            for rank in range(1, 4):
                asked = ranks == rank
                difference = (first - again)[asked].abs().max()
                assert (difference > 1e-5) == (changed < rank), f"{rank} reads {changed}"


def naive_losses(method, batch, ranks, prefixes, flat):
    """Sums of distances by sample and region: hidden patches are left out, not masked (exact check 10)."""
    whole = method.target.encoder(batch).values
    goal = functional.layer_norm(whole, whole.shape[-1:])
    tokens, encoder, predictor = method.encoder.tokenizer(batch), method.encoder, method.predictor
    table = predictor.positions(tokens.coordinates)[0]
    sums = {}
    for sample in range(len(ranks)):
        for rank in range(1, int(ranks[sample].max()) + 1):
            prefix = ranks[sample] < (1 if flat else rank)
            kept = prefix.nonzero().flatten()[None]
            seen = Tokens(tokens.values[sample][kept], take(tokens.coordinates, kept))
            order = torch.cat([torch.zeros(1, dtype=torch.int64), ranks[sample][kept[0]]])
            allowed = None if prefixes else order[None, :] <= order[:, None]
            encoded = encoder.encode(seen, allowed)[0].values
            wanted = (ranks[sample] == rank).nonzero().flatten()
            x = torch.cat(
                [predictor.embed(encoded) + table[kept], (predictor.mask_token[0] + table[wanted])[None]],
                dim=1,
            )
            for block in predictor.blocks:
                x = block(x)
            guess = predictor.out(predictor.norm(x))[0, kept.shape[1] :]
            distance = functional.smooth_l1_loss(guess, goal[sample, wanted], reduction="none").mean(1)
            sums[sample, rank] = distance
    return sums


def test_the_paper_is_the_default():
    kind = recipe("dseq-jepa").preset("paper")
    assert (kind.grid, kind.regions, kind.batch_size, kind.epochs) == ((14, 14), 5, 2048, 600)
    assert round(kind.saliency_depth * kind.depth) == 11, "index 10 of 12 blocks"
    assert 0.15 * 196 > 29, "so that 30 patches are the least"
    assert (kind.curriculum, kind.registers, kind.predictor_depth) == ((0.0, 1.0), 1, 6)
    assert kind.learning_rate_at(1, 600) > 1e-4


def test_contexts_grow_by_one_region_at_a_time():
    """Exact check 4."""
    ranks = torch.tensor([[0, 0, 1, 2, 3]])
    seen = dseq_jepa.visible(ranks, 4)
    assert seen.long().tolist() == [[[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]]
    assert dseq_jepa.visible(ranks, 4, flat=True).long().tolist() == [[[1, 1, 0, 0, 0]] * 3]


@pytest.mark.parametrize("encoding", ["causal", "prefixes"])
def test_a_region_is_predicted_from_all_before_it_and_nothing_else(encoding):
    check_what_is_read(small_method(encoding=encoding))


def test_with_the_released_lag_of_contexts_that_fails(monkeypatch):
    """Defect 1: contexts are R1, R1, R1 u R2 instead of R1, R1 u R2, R1 u R2 u R3."""

    def lagging(ranks, regions, flat=False):
        last = torch.arange(regions - 1).sub(1).clamp(min=0)
        return ranks.unsqueeze(1) <= last.unsqueeze(1)

    monkeypatch.setattr(dseq_jepa, "visible", lagging)
    with pytest.raises(AssertionError, match="2 reads 1"):
        check_what_is_read(small_method())


def test_with_the_released_key_mask_of_the_predictor_that_fails(monkeypatch):
    """Defect 2: all but the context is allowed, so that hidden patches are read and seen ones are not."""
    method = small_method()
    block, seen = type(method.predictor.blocks[0]).forward, []

    def inverted(self, x, **options):
        if options.get("present") is not None:
            options["present"] = ~seen[0].flatten(0, 1)
        return block(self, x, **options)

    original = dseq_jepa.visible

    def noted(*given):
        seen[:] = [original(*given)]
        return seen[0]

    monkeypatch.setattr(dseq_jepa, "visible", noted)
    check_what_is_read(method)
    monkeypatch.setattr(type(method.predictor.blocks[0]), "forward", inverted)
    with pytest.raises(AssertionError, match="3 reads 0"):
        check_what_is_read(method)


def check_masks(context_of, targets_of):
    """No patch is both seen and predicted: dense (batch, patches) and (batch, blocks, patches)."""
    assert not (context_of.unsqueeze(1) & targets_of).any()
    assert context_of.any(1).all()


def test_steps_of_i_jepa_keep_the_masks_of_each_image_together():
    """Defect 3: the released reshape takes (blocks, batch, patches) for (batch, blocks, patches)."""
    method = small_method(image_size=(32, 32), curriculum=(0.0, 0.0))
    masks = method.sampler(6, step_generator(0, 1))
    seen = torch.zeros(6, 64, dtype=torch.bool).scatter(1, masks.context, True)
    hidden = torch.zeros(6, 4, 64, dtype=torch.bool).scatter(2, masks.targets, True)
    check_masks(seen, hidden)
    with pytest.raises(AssertionError):
        check_masks(seen, hidden.transpose(0, 1).reshape(6, 4, 64))


@pytest.mark.parametrize("width", [24, 192])
def test_the_predictor_fits_encoders_of_any_width(width):
    """Defect 4: the released one keeps 768, so that ViT-Ti of 192 cannot run."""
    method = small_method(width=width, depth=1)
    assert method.predictor.embed.in_features == method.predictor.out.out_features == width
    assert method.losses(images(2), context())["loss"].isfinite()
    method.predictor.embed = torch.nn.Linear(768, 16)
    with pytest.raises(RuntimeError):
        method.losses(images(2), context())


@pytest.mark.parametrize("encoding", ["causal", "prefixes"])
@pytest.mark.parametrize("order", ["saliency", "flat", "inverse"])
@pytest.mark.parametrize("over", ["patches", "regions"])
def test_one_masked_call_is_as_many_passes_without_the_hidden_patches(encoding, order, over):
    """Exact checks 6, 9 and 10: images of three, one and no regions, so that slots are empty."""
    method, batch = small_method(encoding=encoding, order=order, loss_over=over).double(), images(3)
    maps = torch.stack([islands(1, found)[0] for found in (3, 1, 0)])
    stands_out(method, maps.double())
    ranks = method.ranks(method.regions(maps), context())
    assert ranks.amax(1).tolist()[:2] == [3, 1]
    with torch.no_grad():
        sums = naive_losses(method, batch, ranks, encoding == "prefixes", order == "flat")
        loss = method.losses(batch, context())["loss"]
    parts = [value.mean()[None] if over == "regions" else value for value in sums.values()]
    assert torch.allclose(loss, torch.cat(parts).mean(), atol=1e-7)


def test_an_image_without_regions_is_given_rectangles():
    method = stands_out(small_method(), islands(6, 0))
    losses = method.losses(images(), context())
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    assert losses["with_0_regions"] == 1
    ranks = method.ranks(method.regions(islands(6, 0)), context())
    assert (ranks.amax(1) >= 1).all()
    for patches in (ranks == 0).view(-1, *GRID):
        rows, columns = patches.any(1).sum(), patches.any(0).sum()
        assert patches.sum() == rows * columns, "a rectangle"
        assert 4 <= patches.sum() <= 9


def test_gradients_reach_what_learns_and_the_class_token_through_the_encoder_alone():
    """Exact check 7."""
    method = small_method()
    losses = method.losses(images(), context())
    assert losses["in_order"] == 1
    losses["loss"].backward()
    for name, parameter in method.named_parameters():
        learns = not name.startswith("target.")
        assert (parameter.grad is not None and bool(parameter.grad.any())) == learns, name
    saliency = method._taught(images())[1]
    assert not saliency.requires_grad
    assert not method.regions(saliency).scores.requires_grad
    assert isinstance(method.target, EmaTeacher)
    moved = small_method()
    with torch.no_grad():
        moved.encoder.registers += 1.0
    assert torch.equal(moved._taught(images())[1], saliency), "the teacher's class token, not the pupil's"


def test_a_curriculum_of_nothing_is_i_jepa_to_the_bit():
    """Exact check 8, with a batch that has not as many images as patches."""
    fields = {name: value for name, value in SMALL.items() if name in FIELDS}
    fields |= {"image_size": (24, 24), "registers": 1, "epochs": 40.0, "warmup_epochs": 4.0}
    torch.manual_seed(0)
    plain = recipe("i-jepa").preset("tiny", **fields).method(GREY)
    method, batch = small_method(curriculum=(0.0, 0.0)), images(5)
    found = []
    for one in (plain, method):
        one.losses(batch, context())["loss"].backward()
        found.append({name: value.grad for name, value in one.named_parameters() if value.grad is not None})
    assert torch.equal(*(one.losses(batch, context())["loss"] for one in (plain, method)))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_full_curriculum_draws_nothing_for_images_with_regions(monkeypatch):
    """Exact check 8: no random block decides anything where lambda is 1."""
    for part in ("steps", "regions"):
        method = stands_out(small_method(curriculum_of=part), islands())
        method.sampler = None
        losses = [method.losses(images(), context(seed=seed))["loss"] for seed in (0, 1)]
        assert torch.equal(*losses)


def test_the_coin_falls_as_the_curriculum_says_and_the_same_after_a_resume():
    method = small_method(curriculum=(0.0, 1.0))
    fell = [method.goes_in_order(context(step, 1000)) for step in range(1, 1001)]
    by_quarter = [sum(fell[start : start + 250]) / 250 for start in range(0, 1000, 250)]
    assert by_quarter == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.09)
    fresh = small_method(curriculum=(0.0, 1.0))
    assert [fresh.goes_in_order(context(step, 1000)) for step in range(501, 520)] == fell[500:519]
    assert method.scheduled(context(501, 1000))["curriculum"] == 0.5
    assert method.scheduled(context(1, 1000))["curriculum"] == 0


def test_single_regions_are_replaced_as_often_as_the_curriculum_says():
    """The paper's Algorithm 1."""
    method = small_method(curriculum=(0.25, 0.25), curriculum_of="regions")
    assert method.goes_in_order(context())
    count, maps = 800, islands(800)
    ranks = method.ranks(method.regions(maps), context())
    kept = (ranks.view(count, *GRID)[:, 0] == 0).all(1) & ((ranks == 0).sum(1) == 6)
    # a rectangle of this shape, 1 x 6, is not among those that are drawn
    assert kept.float().mean().item() == pytest.approx(0.25, abs=0.05)
    uniform = small_method(curriculum=(0.0, 0.0), curriculum_of="regions")
    first, second = (uniform.ranks(uniform.regions(islands(6, n)), context()) for n in (3, 1))
    assert torch.equal(first, second), "nothing is left of what stands out"


@given(
    seed=st.integers(0, 10**6),
    order=st.sampled_from(["saliency", "flat", "random", "spatial", "inverse"]),
    part=st.sampled_from(["steps", "regions"]),
    share=st.floats(0, 1),
    regions=st.integers(2, 6),
)
@settings(max_examples=20)
def test_every_order_leaves_no_place_out_and_covers_every_patch(seed, order, part, share, regions):
    """Exact check 1: every patch has one place; places begin at 0 and are all taken."""
    method = small_method(order=order, curriculum=(share, share), curriculum_of=part, regions=regions)
    maps = torch.randn(5, 36, generator=torch.Generator().manual_seed(seed))
    maps[0] = 0
    found = method.regions(maps)
    ranks = method.ranks(found, context(seed=seed))
    assert ranks.shape == (5, 36)
    for sample in ranks:
        assert sample.unique().tolist() == list(range(int(sample.max()) + 1))
        assert sample.max() < regions
    if part == "steps":
        assert (ranks.amax(1)[found.found > 0] == found.found[found.found > 0]).all()


def test_orders_are_what_their_names_say():
    maps = islands()[:1]
    slots = small_method().regions(maps).slots
    assert slots.view(GRID)[:, 0].tolist() == [0, 3, 1, 3, 2, 3]

    def row(order, seed=0):
        method = small_method(order=order)
        return method.ranks(method.regions(maps), context(seed=seed)).view(GRID)[:, 0].tolist()

    assert row("saliency") == row("flat") == [0, 3, 1, 3, 2, 3]
    assert row("inverse") == [3, 0, 2, 0, 1, 0]
    assert {tuple(row("random", seed)) for seed in range(12)} > {tuple(row("random"))}
    upside = Regions(torch.tensor([[1] * 6 + [2] * 24 + [0] * 6]), torch.tensor([2]), torch.zeros(1, 3))
    method = small_method(order="spatial")
    assert method.ranks(upside, context())[0].tolist() == [0] * 6 + [1] * 24 + [2] * 6


def test_saliency_is_the_class_token_times_each_patch_over_the_root_of_the_width():
    for kind in ("initial", "contextual"):
        method, batch = small_method(saliency=kind, saliency_depth=0.5, depth=4), images()
        assert method.measured_at == 2
        encoder = copy.deepcopy(method.target.encoder)
        encoder.blocks = encoder.blocks[:2]
        tokens, front = encoder.read(batch)
        token = encoder.registers[0, 0] if kind == "initial" else front[:, 0].unsqueeze(1)
        expected = (tokens.values * token).sum(2) / 24**0.5
        assert torch.allclose(method._taught(batch)[1], expected, atol=1e-6)
        assert torch.allclose(method._taught(batch)[0].values, method.target.encoder(batch).values)


def test_shares_of_images_by_regions_are_logged_and_measured():
    """Behavioural check 13."""
    maps = torch.stack([islands(1, found)[0] for found in (3, 1, 0, 1, 2, 1)])
    method = stands_out(small_method(), maps)
    losses = method.losses(images(), context())
    shares = {name: float(losses[name]) for name in losses if name.startswith("with")}
    expected = {
        "with_0_regions": 1 / 6,
        "with_1_regions": 1 / 2,
        "with_2_regions": 1 / 6,
        "with_3_regions": 1 / 6,
    }
    assert shares == pytest.approx(expected)
    assert method.health([images()], context()) == pytest.approx(expected)
    places, saliency = method.ranked(images())
    assert places.amax(1).tolist() == [3, 1, 0, 1, 2, 1], "the background comes right behind the last region"
    assert (saliency.amin(), saliency.amax()) == pytest.approx((0, 1), abs=1e-5)


def test_half_precision_costs_no_more_than_a_hundredth():
    method = stands_out(small_method(), islands(32))
    exact = method.losses(images(32), context())["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rough = method.losses(images(32), context())["loss"]
    assert abs(exact.item() - rough.item()) < 1e-2


@pytest.mark.parametrize("encoding", ["causal", "prefixes"])
def test_a_step_asks_the_device_for_nothing(encoding):
    """Tensors without values: whatever had to look at one, as a wait for the device does, would raise."""
    method = small_method(encoding=encoding, curriculum_of="regions", curriculum=(0.5, 0.5))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        shown = {"image": mode.from_tensor(images()["image"])}
        loss = method.losses(shown, context())["loss"]
    assert loss.shape == ()
    with pytest.raises(RuntimeError), mode:
        loss.item()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"regions": 1}, "--regions must be 2 or more"),
        ({"registers": 0}, "--registers must be 1 or more"),
        ({"least_region": 0.0}, "--least-region must be above 0 and at most 1, not 0"),
        ({"saliency_depth": 1.5}, "--saliency-depth must be above 0 and at most 1, not 1.5"),
        ({"curriculum": (0.0, 2.0)}, "--curriculum is two shares of 0 to 1"),
    ],
)
def test_numbers_that_cannot_work_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        recipe("dseq-jepa").preset("tiny", **{**SMALL, **fields})
