"""S-JEPA: the exact checks of the note, for the model of 2024 and its follow-up."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.domains.eeg_batches import beside
from anyjepa.domains.eeg_heads import HEADS
from anyjepa.domains.eeg_montage import ten_twenty
from anyjepa.domains.eeg_tokens import ElectrodeCode, LocalEncoder, Stretches
from anyjepa.recipes import recipe

SMALL = {
    "width": 24, "depth": 2, "heads": 2, "predictor_heads": 2, "predictor_depth": 1, "place_width": 18,
    "seconds": 4.0, "radius": 0.07, "use": "teacher", "pool": "regions",
}  # fmt: skip
PLACES = ten_twenty()


def facts(places=PLACES):
    places = np.asarray(places).tolist()
    return {
        "electrodes": [f"E{number}" for number in range(len(places))], "places": places, "montages": [places],
        "rate": 64.0, "seconds": 4.0, "patch": 32, "step": 32, "fewest": len(places), "most": len(places),
        "deviation": 1e-5,
    }  # fmt: skip


def small(seed=0, places=PLACES, **fields):
    torch.manual_seed(seed)
    return recipe("s-jepa").preset("tiny", **{**SMALL, **fields}).method(facts(places)).eval()


def small_2024(places=PLACES, **fields):
    torch.manual_seed(0)
    chosen = {"depth": 1, "predictor_depth": 1, "seconds": 4.1875, "expansion": 2.0, **fields}
    return recipe("s-jepa").preset("s-jepa-2024", **chosen).method(facts(places)).eval()


def scattered(count, seed=0):
    directions = np.random.default_rng(seed).standard_normal((count, 3))
    return (0.095 * directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)


def windows(places=PLACES, count=3, points=256, seed=0):
    random = np.random.default_rng(seed)
    signals = 1e-5 * random.standard_normal((count, len(places), points))
    return [np.concatenate([places, one], axis=1).astype(np.float32) for one in signals]


def context(step=1):
    return Context(step, 10, torch.Generator().manual_seed(step))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_tokens_and_receptive_field_of_the_local_encoder():
    local = LocalEncoder()
    assert [local.times(points) for points in (152, 536, 2048, 2072)] == [1, 4, 15, 16]
    assert [local.times(points) for points in (256, 512)] == [1, 3]
    assert local.times(151) == 0, "152 samples are seen by one token"
    assert local.times(152 + 127) == 1 and local.times(152 + 128) == 2, "the next one begins 128 later"
    assert count(local) == 13_840
    signal = torch.zeros(1, 1, 408, requires_grad=True)
    # the group norm spans all of a channel's time, so that only its weights and the strides are looked at
    bare = nn.Sequential(*(part for part in local.convolutions if not isinstance(part, nn.GroupNorm)))
    bare((signal + 0.1).flatten(0, 1).unsqueeze(1))[0, :, 1].sum().backward()
    assert signal.grad[0, 0].nonzero()[:, 0].tolist() == list(range(128, 280))


def test_a_token_depends_on_one_channel_only():
    for tokenizer in (LocalEncoder(scaling="microvolts"), Stretches(32, 32, 24, "microvolts")):
        batch = beside(windows(points=536))
        other = {**batch, "eeg": batch["eeg"].clone()}
        other["eeg"][:, 5] *= -1
        first, second = (tokenizer(one).values.unflatten(1, (19, -1)) for one in (batch, other))
        differ = (first != second).flatten(2).any(2).any(0)
        assert differ.nonzero()[:, 0].tolist() == [5]


def test_the_code_of_places_and_times():
    code = ElectrodeCode(64, 30, 1.0, PLACES.tolist())
    origin = code(torch.zeros(1, 1, 4))[0, 0]
    assert torch.equal(origin, torch.tensor([0.0, 1.0]).repeat(32))
    # the frequencies of the note, from what a small distance does to the sines
    step = 1e-7
    sines = code.of_places(torch.tensor([[step * 10 * code.reach, 0.0, 0.0]]))[0, :10:2].double() / step
    for found, known in zip(sines.tolist(), (535.49, 152.41, 43.376, 12.345, 3.5136), strict=True):
        assert found == pytest.approx(known, rel=1e-4)
    times = code.of_times(torch.tensor([1.0]))[0, ::2].double()
    wanted = torch.sin(600.0 ** (-torch.arange(0, 34, 2, dtype=torch.float64) / 34))
    torch.testing.assert_close(times, wanted, atol=1e-6, rtol=0)
    coordinates = torch.cat([torch.randn(5, 3) * 0.05, torch.arange(5.0)[:, None]], 1)
    both = code(torch.stack([coordinates, coordinates.roll(1, 0)]))
    assert torch.equal(both[0, :, :30], both[1].roll(-1, 0)[:, :30]), "a place has one code at all times"
    unknown = code(torch.tensor([[[math.nan, math.nan, math.nan, 2.0]]]))
    assert not unknown[..., :30].any() and unknown.isfinite().all()


def test_learned_places_begin_as_the_formula_and_serve_their_own_electrodes_only():
    code = ElectrodeCode(64, 30, 1.0, PLACES.tolist())
    assert code.table.numel() == 19 * 30
    here = torch.cat([torch.tensor(PLACES, dtype=torch.float32), torch.zeros(19, 1)], 1)[None]
    torch.testing.assert_close(code(here)[0, :, :30], code.of_places(torch.tensor(PLACES).float()))
    with torch.no_grad():
        code.table += 1.0
    elsewhere = here + torch.tensor([0.004, 0.0, 0.0, 0.0])
    assert torch.equal(code(elsewhere)[..., :30], code.of_places(elsewhere[..., :3]))
    torch.testing.assert_close(code(here.flip(1))[0, :, :30], code.table.flip(0))


def test_the_sizes_of_the_published_models():
    method = recipe("s-jepa").preset("s-jepa-2024").method(facts(scattered(62)))
    trunk = nn.ModuleList([*method.encoder.blocks, method.encoder.norm])
    assert count(trunk) == 2_249_344
    assert count(method.encoder.positions) == 1_860
    assert count(method.predictor) - method.predictor.mask_token.numel() == 1_191_808
    follow_up = recipe("s-jepa").preset("paper", predictor_depth=1).method(facts(scattered(32)))
    assert count(follow_up.encoder) == pytest.approx(12.69e6, rel=1e-3)
    assert follow_up.encoder.tokenizer.times(6000) == 33
    assert follow_up.sampler.times == 33


def test_the_encoder_is_torchs_own_transformer():
    """Weights copied into torch's stock layers, with which the model of 2024 was built."""
    method = small_2024(depth=2, predictor_depth=2)
    stock = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(64, 8, 128, 0.1, batch_first=True), 2, nn.LayerNorm(64), False
    ).eval()
    for mine, theirs in zip(method.encoder.blocks, stock.layers, strict=True):
        _copy_attention(mine.attention, theirs.self_attn)
        _copy_rest(mine.mlp, [mine.norm1, mine.norm2], theirs)
    tokens = method.encoder.tokenizer(beside(windows(points=536)))
    added = replace(tokens, values=tokens.values + method.encoder.positions(tokens.coordinates))
    wanted = stock(added.values)
    torch.testing.assert_close(method.encoder.encode(tokens)[0].values, wanted, atol=1e-4, rtol=1e-4)
    decoder = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(64, 8, 128, 0.1, batch_first=True), 2, nn.LayerNorm(64)
    ).eval()
    for mine, theirs in zip(method.predictor.blocks, decoder.layers, strict=True):
        _copy_attention(mine.attention, theirs.self_attn)
        with torch.no_grad():
            theirs.multihead_attn.in_proj_weight.copy_(
                torch.cat([mine.cross.query.weight, mine.cross.read.weight])
            )
            theirs.multihead_attn.in_proj_bias.copy_(torch.cat([mine.cross.query.bias, mine.cross.read.bias]))
            theirs.multihead_attn.out_proj.load_state_dict(mine.cross.out.state_dict())
        _copy_rest(mine.mlp, mine.norms, theirs)
    asked = torch.randn(3, 7, 64)
    found = method.predictor(wanted, asked)
    torch.testing.assert_close(
        found, decoder(asked + method.predictor.mask_token, wanted), atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def _copy_attention(mine, theirs):
    theirs.in_proj_weight.copy_(mine.qkv.weight)
    theirs.in_proj_bias.copy_(mine.qkv.bias)
    theirs.out_proj.load_state_dict(mine.out.state_dict())


@torch.no_grad()
def _copy_rest(mlp, norms, theirs):
    theirs.linear1.load_state_dict(mlp[0].state_dict())
    theirs.linear2.load_state_dict(mlp[-1].state_dict())
    for number, norm in enumerate(norms, 1):
        getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())


def test_the_whole_encoder_is_braindecodes():
    models = pytest.importorskip("braindecode.models", exc_type=ImportError)
    places = scattered(6)
    method = small_2024(places=places, depth=2, expansion=32.0)
    info = [
        {"loc": np.concatenate([place, np.zeros(9)]), "ch_name": f"E{n}"} for n, place in enumerate(places)
    ]
    theirs = models.SignalJEPA(
        n_outputs=2, n_chans=6, chs_info=info, n_times=536, sfreq=128, transformer__num_encoder_layers=2
    ).eval()
    convolutions = [part for part in theirs.feature_encoder.modules() if isinstance(part, nn.Conv1d)]
    mine = [part for part in method.encoder.tokenizer.convolutions if isinstance(part, nn.Conv1d)]
    norms = [part for part in theirs.feature_encoder.modules() if isinstance(part, nn.GroupNorm)]
    with torch.no_grad():
        for one, other in zip(convolutions, mine, strict=True):
            one.weight.copy_(other.weight)
        norms[0].load_state_dict(method.encoder.tokenizer.convolutions[1].state_dict())
    for own, layer in zip(method.encoder.blocks, theirs.transformer.encoder.layers, strict=True):
        _copy_attention(own.attention, layer.self_attn)
        _copy_rest(own.mlp, [own.norm1, own.norm2], layer)
    batch = beside(windows(places, points=536))
    found = method.encoder(batch).values
    torch.testing.assert_close(found, theirs(batch["eeg"] * 1e6), atol=1e-3, rtol=1e-3)


def test_what_is_hidden_is_not_seen():
    method, batch = small(), beside(windows())
    masks = method.masks(batch, context())
    seen = method.seen(batch, masks).values
    hidden = (
        torch.zeros(3, 19 * 8, dtype=torch.bool).scatter(1, masks.targets[:, 0], True).unflatten(1, (19, 8))
    )
    # backwards in time, a stretch keeps its deviation, by which the window is scaled
    cut = batch["eeg"].unflatten(2, (8, 32))
    whole = hidden.all(2, keepdim=True).unsqueeze(3)
    assert whole.any(), "a channel that is hidden throughout"
    turned = torch.where(whole, cut.flip(2).flip(3), cut).flatten(2)
    assert not torch.equal(turned, batch["eeg"])
    torch.testing.assert_close(
        method.seen({**batch, "eeg": turned}, masks).values, seen, atol=1e-5, rtol=1e-5
    )
    moved = torch.where(whole, cut, cut.flip(3)).flatten(2)
    assert not torch.allclose(method.seen({**batch, "eeg": moved}, masks).values, seen, atol=1e-3)


@pytest.mark.parametrize("pool", ["mean", "regions"])
def test_the_order_of_electrodes_and_padding_do_not_matter(pool):
    method = small(pool=pool)
    own = windows(count=2)
    order = np.random.default_rng(3).permutation(19)
    plain, shuffled = (method.embed(beside(batch)) for batch in (own, [one[order] for one in own]))
    torch.testing.assert_close(shuffled, plain, atol=1e-5, rtol=1e-4)
    wider = method.embed(beside([*own, *windows(scattered(31), 1, seed=4)]))
    torch.testing.assert_close(wider[:2], plain, atol=1e-5, rtol=1e-4)


def test_padding_changes_neither_loss_nor_gradient():
    """Two samples of different montages learn what they learn apart, each with its own number of tokens."""
    method, pair = small(), [windows(count=1)[0], windows(scattered(7), 1, seed=1)[0]]
    batch = beside(pair)
    masks = method.masks(batch, context())
    together = method.losses_of(batch, masks)["loss"]
    other = {**batch, "eeg": batch["eeg"].masked_fill(~batch["present"].unsqueeze(2), 1e-3)}
    other["positions"] = batch["positions"].masked_fill(~batch["present"].unsqueeze(2), 0.04)
    assert torch.equal(method.losses_of(other, masks)["loss"], together)
    asked = masks.asked.sum(1)
    assert asked.tolist() == [round(0.55 * 19 * 8), round(0.55 * 7 * 8)]
    apart = []
    for row, window in enumerate(pair):
        channels = int(batch["present"][row].sum())
        one = {name: value[row : row + 1, :channels] for name, value in batch.items()}
        mine = replace(
            masks,
            context=masks.context[row : row + 1][masks.present[row : row + 1]][None],
            targets=masks.targets[row : row + 1][masks.asked[row : row + 1].unsqueeze(1)][None, None],
            relaxed=masks.relaxed[:1], present=None,
            asked=torch.ones(1, int(asked[row]), dtype=torch.bool),
        )  # fmt: skip
        assert len(window) == channels
        apart.append(method.losses_of(one, mine)["loss"])
    wanted = (apart[0] * asked[0] + apart[1] * asked[1]) / asked.sum()
    torch.testing.assert_close(together, wanted, atol=1e-5, rtol=1e-5)


def test_the_loss_is_of_what_is_hidden_only(monkeypatch):
    method, batch = small(), beside([*windows(count=1), *windows(scattered(7), 1, seed=1)])
    masks = method.masks(batch, context())
    plain = method.losses_of(batch, masks)["loss"]
    predict = method.predict

    def spoilt(*arguments):
        return predict(*arguments).masked_fill(~masks.asked.unsqueeze(2), 1e4)

    monkeypatch.setattr(method, "predict", spoilt)
    assert torch.equal(method.losses_of(batch, masks)["loss"], plain)


@pytest.mark.parametrize("channels", [22, 62, 128])
def test_the_same_weights_read_any_montage(channels):
    method = small()
    width = method.embed(beside(windows())).shape[1]
    found = method.embed(beside(windows(scattered(channels), 2)))
    assert found.shape == (2, width) and found.isfinite().all()
    assert torch.isfinite(method(beside(windows(scattered(channels), 2)), context())["loss"])


@pytest.mark.parametrize("made", [small, small_2024])
def test_only_the_transformer_is_a_moving_average(made):
    method = made()
    batch = beside(windows(points=536))
    if made is small:
        batch["eeg"] = batch["eeg"][..., :256]
    before = {name: value.clone() for name, value in method.target.encoder.named_parameters()}
    method(batch, context())["loss"].backward()
    assert all(one.grad is None for one in method.target.parameters())
    with torch.no_grad():
        for one in method.encoder.parameters():
            one += 0.1
    method.after_step(context())
    after, student = dict(method.target.encoder.named_parameters()), dict(method.encoder.named_parameters())
    momentum = method.scheduled(context())["momentum"]
    for name, value in after.items():
        shared = name.startswith(("tokenizer", "positions"))
        wanted = student[name] if shared else momentum * before[name] + (1 - momentum) * student[name]
        torch.testing.assert_close(value, wanted)


def test_hidden_signals_get_no_gradient():
    """The tokenizer learns through what is seen alone: no gradient goes through the teacher."""
    method = small(scaling="microvolts")
    batch = beside(windows())
    batch["eeg"].requires_grad_()
    masks = method.masks(batch, context())
    method.losses_of(batch, masks)["loss"].backward()
    hidden = torch.zeros(3, 19 * 8, dtype=torch.bool).scatter(1, masks.targets[:, 0], True)
    steep = batch["eeg"].grad.unflatten(2, (8, 32)).abs().sum(3).flatten(1, 2)
    assert not steep[hidden].any()
    assert (steep[~hidden] > 0).all()


def test_a_unit_does_not_matter_and_a_shift_of_amplitude_does():
    method = small()
    plain, large = windows(), windows()
    for window in large:
        window[:, 3:] *= 1e6
    torch.testing.assert_close(method.embed(beside(large)), method.embed(beside(plain)), atol=1e-4, rtol=1e-4)
    in_volts = small(scaling="microvolts")
    assert not torch.allclose(in_volts.embed(beside(large)), in_volts.embed(beside(plain)), atol=1e-2)


@pytest.mark.parametrize("kind", HEADS)
def test_the_three_heads(kind):
    """What each reads: places matter to the contextual head only, and the transformer too."""
    method, batch = small_2024(), beside(windows(points=536))
    head = method.head(kind, batch, 4)
    outputs = head(batch)
    assert outputs.shape == (3, 4)
    assert head.mix.weight.shape == (4, 19)
    moved = {**batch, "positions": batch["positions"].flip(1)}
    assert torch.equal(head(moved), outputs) == (kind != "contextual")
    outputs.sum().backward()
    block = next(method.backbone.blocks.parameters())
    assert block.grad is None, "the teacher is frozen until it is asked to learn"
    assert head.mix.weight.grad is not None
    assert head.out.in_features == 4 * 4 * 64


def test_the_masks_are_balls_on_the_samples_own_electrodes():
    method, batch = small(length=0, radius=0.05), beside(windows(count=1))
    masks = method.masks(batch, context())
    assert len(set(masks.context[0].tolist()) | set(masks.targets[0, 0].tolist())) == 19 * 8


def test_a_spread_that_shrinks_beside_an_inflated_mean_is_seen(monkeypatch):
    method, batch = small(), beside([*windows(count=8), *windows(scattered(5), 1)])
    tokens = method.tokens(batch)
    values = tokens.values[tokens.present].double()
    wanted = (values - values.mean(0)).square().sum(1).mean().sqrt() / values.mean(0).norm()
    assert method.health([batch], context())["token_spread"] == pytest.approx(float(wanted), rel=1e-6)
    inflated = replace(tokens, values=tokens.values + 100)
    monkeypatch.setattr(method, "tokens", lambda _: inflated)
    assert method.health([batch], context())["token_spread"] < 0.02


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"seconds": 0.5}, "fewer than two tokens"), ({"place_width": 20}, "place-width"),
        ({"length": 99}, "length"), ({"share": 1.0}, "share"), ({"heads": 5}, "divide"),
        ({"tokenizer": "convolutions"}, "width"), ({"rate": 0.0}, "rate"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_sentence(fields, said):
    with pytest.raises(UserError, match=said) as caught:
        recipe("s-jepa").preset("tiny", **{**SMALL, **fields})
    assert str(caught.value).count("\n") == 0


def test_electrodes_beyond_the_most_are_drawn_anew():
    kind = recipe("s-jepa").preset("tiny", most_channels=10)
    raw = windows()
    first, second = (kind.draw(raw, np.full((3, 16), chance)) for chance in (0.1, 0.7))
    assert first["eeg"].shape[1] == 10 and bool(first["present"].all())
    assert not torch.equal(first["positions"], second["positions"])
    assert torch.equal(kind.draw(raw, np.full((3, 16), 0.1))["eeg"], first["eeg"])
    assert kind.present(raw)["eeg"].shape[1] == 19
