"""MC-JEPA by the exact checks of its note."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from anyjepa.core.errors import UserError
from anyjepa.core.flow import inside, warp
from anyjepa.core.method import Context
from anyjepa.core.pyramid import Pyramid
from anyjepa.core.shared_covariance import off_diagonal, shared_covariance, spread_hinge
from anyjepa.domains import domains
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import build_method
from anyjepa.recipes import mc_jepa_method, recipe

FACTS = {"channels": 3, "mean": [120.0] * 3, "std": [60.0] * 3, "dtype": "uint8"}
SMALL = {
    "width": 8, "depths": (1,), "image_size": (16, 16), "view_size": (16, 16), "loaded_size": 16,
    "estimator_widths": (8,), "context": 4, "dense_level": 2, "finest_level": 1, "expander": (16, 16, 16),
    "level_variance": (0.01, 0.01, 0.01), "level_covariance": (0.04, 0.04, 0.001),
    "photometric": (1.0, 1.0, 1.0, 1.0), "flow_every": 2, "flow": 1.0,
}  # fmt: skip


def small(**fields):
    return recipe("mc-jepa").preset("tiny", **{**SMALL, **fields})


def method(**fields):
    return build_method(small(**fields), FACTS, 0).double().train()


def context(step=1, steps=10):
    return Context(step, steps, step_generator(0, step))


def pictures(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def batch(count=8):
    return {"frames": pictures(count, 2, 3, 16, 16), "still": pictures(count, 3, 16, 16, seed=1)}


def without_flow(made):
    """The method with an estimator that says that nothing moves."""
    for correction in made.estimator.corrections:
        torch.nn.init.zeros_(correction.out.weight)
    return made


def test_the_published_numbers():
    paper = recipe("mc-jepa").preset("paper")
    assert (paper.smooth, paper.cycle, paper.regression, paper.flow) == (75.0, 0.2, 1.0, 0.1)
    assert paper.level_variance == (0.01, 0.01, 0.01, 0.01, 0.001, 0.0001)
    assert paper.level_covariance == (0.04, 0.04, 0.001, 0.0, 0.0, 0.0)
    assert paper.photometric == (1.0, 1.0, 1.0, 0.0)
    assert paper.expander == (8192, 8192, 8192)
    assert paper.batch_size / paper.flow_every == 8
    assert paper.flow_start * paper.epochs == 10


def test_the_pyramid_is_that_of_the_table():
    with torch.device("meta"):
        pyramid = Pyramid(3, 48, (3, 3, 9, 3), [0.0] * 3, [1.0] * 3)
        maps = pyramid.maps(torch.zeros(1, 3, 224, 224))
    sizes = [(one.shape[1], one.shape[2]) for one in maps]
    assert sizes == [(48, 112), (48, 56), (96, 28), (192, 14), (384, 7), (768, 3)]
    assert pyramid.width == 768 and pyramid.stride == 64
    assert sum(one.numel() for one in pyramid.parameters()) == 27_870_768


@pytest.mark.parametrize("size", [(16, 16), (19, 33), (5, 8)])
def test_flow_has_the_size_of_its_frames(size):
    made = method().eval()
    frames = pictures(2, 2, 3, *size)
    found = made.flow(frames)
    assert found.shape == (2, 2, *size)
    below, right = (-side % 8 for side in size)
    padded = torch.nn.functional.pad(frames.double(), (0, right, 0, below, 0, 0), mode="replicate")
    torch.testing.assert_close(found, made.flow(padded)[..., : size[0], : size[1]])


def test_frames_that_stand_still_cost_nothing():
    still = pictures(4, 1, 3, 16, 16).expand(-1, 2, -1, -1, -1)
    found = without_flow(method()).flow_losses(still)
    for name in ("reconstruction", "regression", "cycle", "smoothness", "flow_length"):
        assert float(found[name]) == pytest.approx(0, abs=1e-12), name
    assert float(found["in_sight"]) == 1
    assert float(without_flow(method()).flow_losses(pictures(4, 2, 3, 16, 16))["reconstruction"]) > 1


def test_a_way_there_and_back_by_whole_pixels_changes_nothing():
    """Where both ways stay inside; the regression is 0 too where the other frame is the first, moved."""
    made = method(depths=(), dense_level=1, level_variance=(0.0, 0.0), level_covariance=(0.0, 0.0),
                  finest_level=2)  # fmt: skip
    first = torch.rand(1, 5, 16, 16, dtype=torch.float64)
    there = torch.tensor([2.0, -1.0], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    second = first.roll((-1, 2), (2, 3))
    maps, flows = torch.cat([first, second]), torch.cat([there, -there])
    others = mc_jepa_method.turned(maps, 1)
    within = torch.zeros(2, 1, 16, 16, dtype=torch.float64)
    within[..., 3:-3, 3:-3] = 1
    found = made._of_features([maps, maps], [others, others], [flows], within, 1)
    assert float(found["cycle"]) == pytest.approx(0, abs=1e-20)
    assert float(found["regression"]) == pytest.approx(0, abs=1e-20)
    everywhere = made._of_features([maps, maps], [others, others], [flows], torch.ones_like(within), 1)
    assert min(float(value) for value in everywhere.values()) > 1e-3


def test_variance_and_covariance_of_features_that_are_known():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(100_000, 6, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(shared_covariance(normal), torch.cov(normal.T))
    assert float(spread_hinge(shared_covariance(normal))) < 0.01
    constant = torch.ones(50, 6, dtype=torch.float64)
    assert float(spread_hinge(shared_covariance(constant))) == pytest.approx(1 - math.sqrt(1e-4))
    column = normal[:, :1] / normal[:, :1].std()
    assert float(off_diagonal(shared_covariance(column.expand(-1, 6)))) == pytest.approx(5)


def test_variance_and_covariance_are_those_of_every_level():
    made = method()
    maps = [one.detach() for one in made.encoder.maps(pictures(4, 3, 16, 16))]
    found = made._of_spread(maps)
    wanted = [0.0, 0.0]
    for one, spread, apart in zip(maps, (0.01,) * 3, (0.04, 0.04, 0.001), strict=True):
        matrix = torch.cov(one.permute(1, 0, 2, 3).flatten(1))
        wanted[0] += spread * float((1 - (matrix.diagonal() + 1e-4).sqrt()).clamp(min=0).mean())
        wanted[1] += apart * float((matrix.square().sum() - matrix.diagonal().square().sum()) / len(matrix))
    assert [float(found["variance"]), float(found["covariance"])] == pytest.approx(wanted)
    assert float(found["spread_level_2"]) == pytest.approx(
        float(maps[1].permute(1, 0, 2, 3).flatten(1).std(1).mean())
    )


def test_the_loss_is_the_weighted_sum_of_its_parts():
    made = method(flow=0.3, content=0.7, smooth=2.0, cycle=0.5, regression=1.5)
    found = made(batch(), context())
    flow = found["reconstruction"] + 2 * found["smoothness"] + 1.5 * found["regression"]
    flow = flow + 0.5 * found["cycle"] + found["variance"] + found["covariance"]
    torch.testing.assert_close(found["flow"], flow)
    torch.testing.assert_close(found["loss"], 0.3 * found["flow"] + 0.7 * found["content"])


def test_content_teaches_the_encoder_and_motion_both():
    made, chance = method(), context()
    made.content_losses(batch(), chance)["content"].backward()
    assert all(one.grad is None for one in made.estimator.parameters())
    assert all(one.grad is not None and one.grad.any() for one in made.encoder.parameters())
    made = method(level_variance=(0.0,) * 3, level_covariance=(0.0,) * 3)
    made.flow_losses(batch()["frames"])["flow"].backward()
    for part in (made.encoder, made.estimator):
        assert all(one.grad is not None and one.grad.any() for one in part.parameters())
    assert all(one.grad is None for one in made.expander.parameters())


def test_regression_teaches_by_both_frames():
    """Nothing is detached: features of either frame have a gradient of what they are compared with."""
    made = method()
    maps = [one.detach().requires_grad_() for one in made.encoder.maps(pictures(4, 3, 16, 16))]
    others = [one.roll(2, 0).detach().requires_grad_() for one in maps]
    flows = made.estimator(maps, others)
    weights = torch.ones(4, 1, 16, 16, dtype=torch.float64)
    made._of_features(maps, others, flows, weights, 2)["regression"].backward()
    assert all(one.grad.any() for one in (*maps, *others))
    assert all(one.grad is not None for one in made.estimator.parameters())


def test_flow_waits_for_its_turn():
    made, data = method(flow_start=0.5), batch()
    early, late = made(data, context(5)), made(data, context(6))
    assert "flow" not in early and "flow" in late
    assert made.scheduled(context(5)) == {"flow_weight": 0.0}
    assert made.scheduled(context(6)) == {"flow_weight": 1.0}
    torch.testing.assert_close(early["loss"], early["content"])
    early["loss"].backward()
    assert all(one.grad is not None and not one.grad.any() for one in made.estimator.parameters())
    alone = method(flow_start=0.5, content=0.0)
    assert "flow" in alone(data, context(1)), "there is nothing else to learn"


@pytest.mark.parametrize("every", [2, 3, 5])
def test_processes_learn_the_flow_of_the_same_pairs_as_one(monkeypatch, every):
    made = method(flow_every=every)
    seen = []
    monkeypatch.setattr(
        made, "flow_losses", lambda frames: seen.append(frames) or {"flow": frames.sum().double()}
    )
    data = batch(12)
    made.losses(data, context())
    for rank in (0, 1):
        monkeypatch.setattr(mc_jepa_method, "process", lambda rank=rank: (rank, 2))
        made.losses({name: one[6 * rank : 6 * rank + 6] for name, one in data.items()}, context())
    assert torch.equal(seen[0], data["frames"][::every])
    assert torch.equal(torch.cat(seen[1:]), seen[0])


def test_each_task_can_be_left_out():
    motion, content = method(content=0.0), method(flow=0.0)
    assert motion.expander is None and content.estimator is None
    assert "content" not in motion(batch(), context())
    assert "flow" not in content(batch(), context())
    samples, chances = list(pictures(3, 2, 16, 16, 3).numpy()), np.full((3, 16), 0.5)
    assert small(content=0.0).draw(samples, chances).keys() == {"frames"}
    assert small().draw(samples, chances).keys() == {"frames", "still", "aspect"}
    with pytest.raises(ValueError, match="learns no flow"):
        content.flow(pictures(1, 2, 3, 16, 16))
    assert content.imagined(batch()).keys() == {"frames"}
    assert content.health([batch()], context()) == {}


def test_both_frames_are_cropped_alike_and_stills_are_whole():
    pair = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8).repeat(2, axis=0)
    still = np.full((1, 16, 16, 3), 7, np.uint8)
    chances = np.random.default_rng(1).random((2, 16))
    found = small().draw([np.concatenate([pair, still]), pair], chances)
    assert torch.equal(found["frames"][:, 0], found["frames"][:, 1])
    assert (found["still"][0] == 7).all()
    assert torch.equal(found["still"][1], torch.from_numpy(pair[0]).permute(2, 0, 1))
    shown = small().present([np.concatenate([pair, still])])["frames"]
    assert torch.equal(shown[0, 1], torch.from_numpy(pair[0]).permute(2, 0, 1))


def test_an_embedding_is_that_of_the_first_frame():
    made, frames = method().eval(), pictures(3, 2, 3, 16, 16)
    other = frames.clone()
    other[:, 1] = 0
    assert torch.equal(made.embed({"frames": frames}), made.embed({"frames": other}))
    tokens = made.tokens({"frames": frames})
    assert tokens.values.shape == (3, 16, 8)
    assert made.views({"frames": frames}, context(), 4).shape == (3, 4, 16)


def test_what_warping_explains_is_drawn():
    made, frames = method().eval(), pictures(2, 2, 3, 16, 16)
    shown = made.imagined({"frames": frames})["flow"]
    back = warp(frames[:, 1].double(), shown["flow"]).round().to(torch.uint8)
    assert torch.equal(shown["warped"], back)
    apart = (frames[:, 1].double() - frames[:, 0].double()).abs().mean(1) / 255 / mc_jepa_method.SHOWN_ERROR
    torch.testing.assert_close(shown["before"], apart)
    html = domains()["frames"].figure(shown, 0, FACTS)
    assert html.count("<img") == 7 and "rim: " in html
    assert domains()["frames"].figure({"frames": frames}, 0, FACTS) is None


def test_health_without_truth():
    still = pictures(3, 1, 3, 16, 16).expand(-1, 2, -1, -1, -1)
    found = without_flow(method().eval()).health([{"frames": still}], context())
    assert found == {"photometric_left": 0.0, "forward_backward_error": 0.0, "flow_length": 0.0}
    moving = without_flow(method().eval()).health([batch()], context())
    assert moving["photometric_left"] == pytest.approx(1)


def test_occluded_pixels_do_not_count():
    found = {}
    for occlusion in (True, False):
        made = method(occlusion=occlusion)
        for correction in made.estimator.corrections:
            torch.nn.init.normal_(correction.out.weight, std=1.0)
        found[occlusion] = made.flow_losses(batch()["frames"])
    assert found[True]["in_sight"] < found[False]["in_sight"] < 1
    full = found[False]["flow_length"]
    assert full > 0.5, "there is flow to be occluded by"


def test_one_estimator_for_all_levels_or_one_each():
    each, shared = method(), method(shared_estimator=True)
    assert (len(each.estimator.corrections), len(shared.estimator.corrections)) == (3, 1)
    assert torch.isfinite(shared(batch(), context())["loss"])
    coarse = method(finest_level=3)
    flows = coarse.estimator(*[coarse.encoder.maps(pictures(2, 3, 16, 16, seed=seed)) for seed in (0, 1)])
    assert [tuple(one.shape) for one in flows] == [(2, 2, 2, 2)]


def test_flow_is_limited():
    made = method(flow_limit=3.0).eval()
    for correction in made.estimator.corrections:
        torch.nn.init.constant_(correction.out.bias, 100.0)
    found = made.flow(pictures(1, 2, 3, 16, 16))
    assert found.abs().max() <= 3.0 + 1e-9
    assert inside(found).any()


def test_values_other_than_bytes_are_shown_as_0_to_1():
    facts = {**FACTS, "dtype": "float32", "mean": [0.0] * 3, "std": [1.0] * 3}
    made = build_method(small(), facts, 0)
    values = torch.tensor([-3.0, 0.0, 3.0, 9.0]).view(1, 1, 2, 2)
    torch.testing.assert_close(made.shown(values), torch.tensor([0.0, 0.5, 1.0, 1.0]).view(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"flow": 0.0, "content": 0.0}, "nothing to learn"),
        ({"image_size": (20, 16)}, "does not divide by 8"),
        ({"view_size": (4, 16)}, "--view-size must be 8"),
        ({"level_variance": (0.1, 0.1)}, "--level-variance needs 3 numbers"),
        ({"dense_level": 4}, "--dense-level is a level from 1 to 3"),
        ({"flow_start": 1.0}, "--flow-start"),
        ({"flow_every": 0}, "--flow-every must be 1"),
    ],
)
def test_values_that_cannot_work_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        small(**fields)


def test_half_of_the_batch_is_as_good_as_the_field_says():
    """Weights of the flow's pairs only: the same pairs without the others give the same flow loss."""
    data = batch()
    every = method(flow_every=4)
    first = replace(small(flow_every=4), content=0.0)
    found = every(data, context())["flow"]
    alone = build_method(first, FACTS, 0).double().train()
    alone.load_state_dict(every.state_dict(), strict=False)
    torch.testing.assert_close(alone(data, context())["flow"], found)
