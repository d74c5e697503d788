"""LeJEPA by the exact checks of its note."""

import dataclasses

import numpy as np
import pytest
import torch

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.core.sigreg import directions
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import build_method
from anyjepa.recipes import recipe

FACTS = {"channels": 3, "mean": [120.0] * 3, "std": [60.0] * 3}
SMALL = {"width": 24, "depth": 1, "heads": 2, "projector": (16, 16), "projection": 8, "slices": 32}


def small(**fields):
    return recipe("lejepa").preset("tiny", **{**SMALL, **fields})


def method(**fields):
    return build_method(small(**fields), FACTS, 0).double()


def context(step=1):
    return Context(step, 10, step_generator(0, step))


def batch(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)}


def embeddings(views=4, count=10, dim=8, seed=0):
    return torch.randn(views, count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slices(dim=8):
    return directions(dim, 32, step_generator(0, 1), torch.float64)


def combined(made, z):
    invariance, gaussian = made.terms(z, slices())
    return made.weights[0] * invariance + made.weights[1] * gaussian


def test_the_published_numbers():
    paper = recipe("lejepa").preset("paper")
    assert (paper.regularisation, paper.slices, paper.quadrature) == (0.05, 1024, "code")
    assert (paper.global_views, paper.local_views, paper.learning_rate) == (2, 6, 5e-4)
    assert paper.final_learning_rate == pytest.approx(paper.learning_rate / 1000)
    minimal = recipe("lejepa").preset("minimal")
    assert (minimal.regularisation, minimal.projection, minimal.global_views) == (0.02, 16, 4)


def test_the_loss_is_that_of_the_formula():
    made = method(regularisation=0.2)
    losses = made(batch(), context())
    wanted = 0.8 * losses["invariance"] + 0.2 * losses["sigreg"]
    assert torch.allclose(losses["loss"], wanted)
    assert float(losses["lambda_times_batch"]) == pytest.approx(1.2)
    added = method(regularisation=0.2, weights="added")(batch(), context())
    assert torch.allclose(added["loss"], added["invariance"] + 0.2 * added["sigreg"])
    assert torch.equal(added["invariance"], losses["invariance"])


def test_views_may_change_places_within_their_kind_only():
    made, z = method(), embeddings()
    same = combined(made, z)
    for order in ([1, 0, 2, 3], [0, 1, 3, 2]):
        assert torch.allclose(combined(made, z[order]), same, rtol=1e-12)
    assert not torch.allclose(combined(made, z[[2, 1, 0, 3]]), same)


def test_the_invariance_is_a_mean_over_everything_and_0_only_where_views_agree():
    made, z = method(), embeddings()
    centre = (z[0] + z[1]) / 2
    invariance, _ = made.terms(z, slices())
    assert float(invariance) == pytest.approx(float(sum(((v - centre) ** 2).sum() for v in z)) / z.numel())
    same = z[:1].repeat(4, 1, 1)
    assert float(made.terms(same, slices())[0]) == 0
    same[3, 2, 1] += 1e-3
    assert float(made.terms(same, slices())[0]) > 0


def test_gradients_come_through_every_view_and_through_their_mean():
    made, z = method(), embeddings().requires_grad_()
    (slope,) = torch.autograd.grad(made.terms(z, slices())[0], z)
    assert all(view.any() for view in slope)
    # stopped at the mean, a local view would leave the global ones alone
    local = ((z[2:] - z[:2].mean(0)) ** 2).sum()
    (through,) = torch.autograd.grad(local, z)
    assert through[0].any()
    distance = z.detach() - z.detach()[:2].mean(0)
    stopped = 2 * distance / z.numel()
    assert torch.allclose(slope[2:], stopped[2:])
    assert torch.allclose(slope[0], stopped[0] - (2 * distance).sum(0) / z.numel() / 2)


def test_without_sigreg_a_constant_is_best_and_without_invariance_pairing_is_nothing():
    z = embeddings()
    alone = method(regularisation=0.0)
    constant = torch.ones_like(z, requires_grad=True)
    loss = combined(alone, constant)
    (slope,) = torch.autograd.grad(loss, constant)
    assert float(loss.detach()) == 0 and not slope.any()
    only = method(regularisation=1.0)
    mixed = torch.stack([view[torch.randperm(10)] for view in z])
    assert torch.allclose(combined(only, mixed), combined(only, z), rtol=1e-12)
    assert not torch.allclose(combined(method(), mixed), combined(method(), z))


def test_sigreg_pulls_a_sample_in_proportion_to_lambda_times_the_batch():
    one = embeddings(4, 10)

    def pull(z):
        z = z.clone().requires_grad_()
        invariance, gaussian = method().terms(z, slices())
        return [torch.autograd.grad(term, z)[0][:, 0].norm() for term in (gaussian, invariance)]

    (sigreg, invariance), (more, less) = pull(one), pull(one.repeat(1, 3, 1))
    assert torch.allclose(more / less, 3 * sigreg / invariance)


@pytest.mark.parametrize(
    ("fields", "ours"),
    [
        ({"statistic": "vasicek"}, "vasicek"),
        ({"quadrature": "paper"}, "paper"),
        ({"debiased": True}, "debiased"),
    ],
)
def test_the_regulariser_is_the_one_asked_for(fields, ours):
    from anyjepa.core import epps_pulley, normality
    from anyjepa.core.sigreg import sigreg

    wanted = {
        "vasicek": normality.vasicek,
        "paper": lambda x: epps_pulley.epps_pulley(x, epps_pulley.QUADRATURES["paper"]),
        "debiased": lambda x: epps_pulley.epps_pulley(x, debiased=True),
    }
    z = embeddings()
    assert torch.equal(method(**fields).terms(z, slices())[1], sigreg(z, slices(), wanted[ours]))


def test_slices_come_first_so_that_parts_of_any_size_have_the_same():
    drawn = []
    made = method()
    made.regularise = lambda z, vectors: drawn.append(vectors) or z.mean()
    for count in (3, 5):
        made(batch(count), context())
    made(batch(3), context(2))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_loader_squeezes_and_the_views_stretch_again():
    samples = [np.full((10, 30, 3), 7, np.uint8), np.full((20, 20, 3), 9, np.uint8)]
    drawn = small().draw(samples, np.zeros((2, 16)))
    assert drawn["image"].shape == (2, 3, 16, 16)
    assert drawn["aspect"].tolist() == [3.0, 1.0]


def test_views_have_their_sizes_and_names():
    made = method(image_size=(16, 16), local_size=(8, 8), local_views=3)
    views = made.augmented(batch(), context())
    assert list(views) == ["global 1", "global 2", "local 1", "local 2", "local 3"]
    assert [view["image"].shape[2] for view in views.values()] == [16, 16, 8, 8, 8]
    assert all(view["image"].dtype == torch.uint8 for view in views.values())
    assert made.eval().views(batch(), context(), 3).shape == (6, 3, 24)


@pytest.mark.parametrize("backbone", ["resnet-18", "vit"])
def test_a_step_reaches_every_weight_of_a_backbone(backbone):
    kind = small(backbone=backbone, small_images=backbone == "resnet-18", local_views=0)
    made = build_method(kind, FACTS, 0)
    made(batch(), context())["loss"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in made.parameters())
    assert made.eval().embed(batch()).shape == (6, made.encoder.width)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"regularisation": 2.0}, "--weights added"),
        ({"local_size": (9, 9)}, "--local-size 9 9"),
        ({"global_views": 1, "local_views": 0}, "two views"),
        ({"heads": 5}, "--heads 5"),
        ({"backbone": "resnet-81"}, "resnet-18"),
        ({"slices": 0}, "--slices"),
    ],
)
def test_what_cannot_work_is_said(fields, message):
    with pytest.raises(UserError, match=message):
        small(**fields)


def test_lambda_may_exceed_one_where_it_is_added():
    assert small(regularisation=10.0, weights="added").regularisation == 10


def trained(tmp_path, name, steps, **fields):
    settings = anyjepa.Settings(steps=steps, quiet=True)
    anyjepa.train("lejepa", "digits", tmp_path / name, settings=settings, **fields)
    return anyjepa.load(tmp_path / name)


def spread(run):
    """Standard deviation of the projector's output over digits."""
    with torch.inference_mode():
        _, shown = next(run.batches(run.open(), np.arange(256)))
        return float(run.method.projector(run.method.encoder(shown)).std(0).mean())


@pytest.mark.slow
def test_without_sigreg_it_collapses_and_with_it_not(tmp_path):
    fields = {"width": 48, "batch_size": 64, "projection": 8}
    without = trained(tmp_path, "without", 150, regularisation=0.0, **fields)
    with_it = trained(tmp_path, "with", 150, regularisation=0.05, **fields)
    assert spread(without) < 0.1
    assert spread(with_it) > 0.5
    figures = anyjepa.inspect(with_it)
    assert not figures["collapsed"]
    assert anyjepa.inspect(without)["sigreg_mean"] > 2 * figures["sigreg_mean"]


@pytest.mark.slow
def test_the_tiny_preset_beats_the_untrained_encoder_by_both_probes(tmp_path):
    run = trained(tmp_path, "tiny", None)
    linear, knn = anyjepa.evaluate(run, probe=["linear", "knn"])["results"]
    assert linear["value"] > linear["untrained"] + 0.03
    assert knn["value"] > knn["untrained"] + 0.1
    assert linear["value"] > linear["raw"] - 0.02
    assert dataclasses.replace(run.recipe) == recipe("lejepa").preset("tiny")
