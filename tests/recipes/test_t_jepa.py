"""T-JEPA: the exact checks of the paper note, and what every mask and token must obey."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, rankdata
from torch import Generator

from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.core.targets import EmaTeacher
from anyjepa.domains import domains
from anyjepa.domains.table_masks import ColumnSubsets
from anyjepa.domains.table_tokens import ColumnTokens, Scaling, calendar, places
from anyjepa.engine.loading import Steps
from anyjepa.engine.run import build_method
from anyjepa.engine.workers import batches
from anyjepa.recipes import recipe

TABLE = domains()["table"]
JANNIS = ((0.136, 0.368), (0.156, 0.622))
SMALL = {
    "width": 16, "depth": 2, "heads": 2, "feedforward": 32,
    "predictor_width": 8, "predictor_depth": 2, "predictor_heads": 2, "predictor_feedforward": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def synthetic():
    samples = TABLE.open("synthetic-table")
    return samples, TABLE.measure(samples)


def small(facts, seed=0, **fields):
    return build_method(recipe("t-jepa").preset("tiny", **{**SMALL, **fields}), facts, seed)


def rows(samples, count=8):
    return {"row": torch.from_numpy(samples.array[:count].copy())}


def step(seed=0, number=1, steps=10):
    return Context(number, steps, Generator().manual_seed(seed))


# Check 1: shapes


@pytest.mark.parametrize("reg", ["none", "always", "maskable"])
def test_shapes_are_those_of_the_note(synthetic, reg):
    samples, facts = synthetic
    method, batch = small(facts, reg=reg), rows(samples)
    registers, columns = int(reg != "none"), len(facts["columns"])
    masks = method.masks(batch, step())
    seen, hidden = method.subsets.sizes(step().generator)
    kept = seen + registers * (reg == "always")
    assert method.tokens(batch).values.shape == (8, columns + registers, 16)
    context = method.encoder(batch, keep=masks.context)
    assert context.values.shape == (8, kept, 16)
    assert masks.targets.shape == (8, 4, hidden)
    assert method.predictor(context, method.tokens(batch).coordinates, masks).shape == (8, 4, hidden, 16)


@pytest.mark.parametrize(("embedding", "dim"), [("reg", 16), ("mean", 16), ("flat", 13 * 16)])
def test_embeddings_are_what_they_are_called(synthetic, embedding, dim):
    samples, facts = synthetic
    method, batch = small(facts, embedding=embedding).eval(), rows(samples)
    values = method.tokens(batch).values
    expected = {"reg": values[:, 0], "mean": values.mean(1), "flat": values.flatten(1)}[embedding]
    assert method.embed(batch).shape == (8, dim)
    assert torch.equal(method.embed(batch), expected)


# Checks 2 and 3: masks


def test_sizes_of_the_published_shares():
    def reached(columns):
        sampler = ColumnSubsets(columns, *JANNIS)
        drawn = [sampler.sizes(Generator().manual_seed(seed)) for seed in range(2000)]
        return {context for context, _ in drawn}, [target for _, target in drawn], sampler

    contexts, targets, _ = reached(8)
    assert contexts == {1, 2, 3}
    assert set(targets) == {1, 2, 3, 4, 5}
    _, _, sampler = reached(54)
    assert sampler.context_sizes == (7, 20)
    assert sampler.target_sizes == (8, 34)


def test_the_extreme_sizes_are_half_as_likely():
    """Measured in the note: 12.7 %, 25 %, 25 %, 25 %, 12.3 % of the sizes 1 to 5."""
    sampler = ColumnSubsets(8, (0.125, 0.125), (0.156, 0.622))
    sizes = [sampler.sizes(Generator().manual_seed(seed))[1] for seed in range(8000)]
    shares = np.bincount(sizes, minlength=6)[1:] / len(sizes)
    assert shares == pytest.approx([0.125, 0.25, 0.25, 0.25, 0.125], abs=0.02)


@pytest.mark.parametrize(
    ("columns", "shares", "complaint"),
    [
        (1, JANNIS, "of 1 column 0 would be seen"),
        (3, JANNIS, "of 3 columns 0 to 1 would be seen"),
        (8, ((0.2, 0.4), (0.01, 0.02)), "0 hidden"),
        (8, ((0.7, 0.9), (0.6, 0.9)), "cannot be cut"),
    ],
)
def test_masks_that_cannot_be_drawn_say_so(columns, shares, complaint):
    with pytest.raises(ValueError, match=complaint):
        ColumnSubsets(columns, *shares)


def test_a_table_that_is_too_narrow_is_a_mistake_of_the_user():
    samples = TABLE.open(np.random.default_rng(0).normal(size=(20, 1)))
    with pytest.raises(UserError, match="give more columns"):
        recipe("t-jepa").preset("tiny").method(TABLE.measure(samples))


@given(
    columns=st.integers(2, 40),
    low=st.floats(0.1, 0.5),
    high=st.floats(0.5, 0.9),
    registers=st.integers(0, 2),
    maskable=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_masks_obey_their_invariants(columns, low, high, registers, maskable, seed):
    shares = ((low, high), (low, high))
    try:
        sampler = ColumnSubsets(columns, *shares, registers=registers, maskable=maskable)
    except ValueError:
        return
    masks = sampler(16, Generator().manual_seed(seed))
    seen, hidden = sampler.sizes(Generator().manual_seed(seed))
    assert seen + hidden <= columns
    first = 0 if maskable else registers
    assert masks.context.shape == (16, seen + first)
    assert masks.targets.shape == (16, 4, hidden)
    tokens = torch.zeros(16, columns + registers, dtype=torch.long)
    tokens.scatter_(1, masks.context, 1)
    assert (tokens.sum(1) == seen + first).all(), "no token twice"
    assert (tokens[:, :first] == 1).all(), "[REG] in every context"
    for block in masks.targets.unbind(1):
        assert (tokens.gather(1, block) == 0).all(), "a target is no context"
        assert len({tuple(sorted(set(row))) for row in block.tolist()}) >= 1
        assert all(len(set(row)) == hidden for row in block.tolist())
        assert int(block.min()) >= first and int(block.max()) < columns + registers


@pytest.mark.parametrize("maskable", [False, True])
def test_every_column_is_seen_and_hidden_and_rows_differ(maskable):
    """A thousand draws; the released code never uses the last column."""
    sampler = ColumnSubsets(9, *JANNIS, registers=1, maskable=maskable)
    contexts, targets = set(), set()
    for seed in range(1000):
        masks = sampler(4, Generator().manual_seed(seed))
        contexts |= set(masks.context.flatten().tolist())
        targets |= set(masks.targets.flatten().tolist())
    everything = set(range(10))
    assert contexts == everything
    assert targets == (everything if maskable else everything - {0})
    masks = sampler(64, Generator().manual_seed(0))
    assert len({tuple(sorted(row)) for row in masks.context.tolist()}) > 1


def test_missing_cells_are_hidden_last():
    sampler = ColumnSubsets(10, (0.3, 0.3), (0.4, 0.4), registers=1)
    observed = torch.ones(200, 11, dtype=torch.bool)
    observed[:, [2, 5, 9]] = False
    masks = sampler(200, Generator().manual_seed(0), observed)
    gone = ~observed.unsqueeze(1).expand(-1, 4, -1).gather(2, masks.targets)
    missing_outside = 3 - (~observed.gather(1, masks.context)).sum(1)
    # seven columns are left, of which four are hidden: a missing one only where there are too few others
    assert (gone.sum(2) == (4 - (7 - missing_outside)).clamp(min=0).unsqueeze(1)).all()


# Check 4: who sees what


def test_locality_of_context_and_target(synthetic):
    samples, facts = synthetic
    method, batch = small(facts).eval(), rows(samples)
    masks = method.masks(batch, step())
    hidden = masks.targets[0, 0, 0]
    seen = masks.context[0, 1]
    before, whole = (
        method.encoder(batch, keep=masks.context).values,
        method.target(method.encoder, batch).values,
    )
    for token, changes in [(hidden, False), (seen, True)]:
        other = {"row": batch["row"].clone()}
        other["row"][0, token - 1] = 1.0 - other["row"][0, token - 1].nan_to_num(0).clamp(0, 1)
        after = method.encoder(other, keep=masks.context).values
        assert torch.equal(after[0], before[0]) != changes
        assert torch.equal(after[1:], before[1:])
        teacher = method.target(method.encoder, other).values
        assert not torch.equal(teacher[0, masks.targets[0, 0]], whole[0, masks.targets[0, 0]])


# Check 5: [REG]


def test_reg_is_alike_for_all_rows_until_it_has_looked(synthetic):
    samples, facts = synthetic
    method, batch = small(facts).eval(), rows(samples)
    inputs = method.encoder.tokenizer(batch).values[:, 0]
    assert torch.equal(inputs, inputs[:1].expand_as(inputs))
    outputs = method.encoder(batch).values[:, 0]
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-4)
    alone = method.encoder(batch, keep=torch.zeros(8, 1, dtype=torch.int64)).values[:, 0]
    torch.testing.assert_close(alone, alone[:1].expand_as(alone))


# Check 6: gradients and the teacher


def test_gradients_and_the_moving_average(synthetic):
    samples, facts = synthetic
    method, batch = small(facts), rows(samples, 64)
    method(batch, step())["loss"].backward()
    assert all(p.grad is None for p in method.target.parameters())
    tokenizer = method.encoder.tokenizer
    for part in (tokenizer.weight, tokenizer.bias, tokenizer.categories, tokenizer.registers,
                 tokenizer.missing, tokenizer.waves, method.predictor.mask_token):  # fmt: skip
        assert part.grad.any()
    for parameter in method.encoder.parameters():
        parameter.data += 0.1
    before = copy.deepcopy(method.target.encoder.state_dict())
    method.target.follow(method.encoder, 1.0)
    assert all(torch.equal(before[k], v) for k, v in method.target.encoder.state_dict().items())
    method.target.follow(method.encoder, 0.0)
    mine = method.encoder.state_dict()
    assert all(torch.equal(mine[k], v) for k, v in method.target.encoder.state_dict().items())
    assert any("knots" in name for name in mine), "buffers of the preprocessing are among them"


def test_each_element_of_the_gradient_is_clamped(synthetic):
    samples, facts = synthetic
    clamped, free = (small(facts, clamp_gradients=limit) for limit in (1e-4, 0.0))
    for method in (clamped, free):
        method(rows(samples), step())["loss"].backward()
        method.before_step(step())
    pairs = zip(clamped.encoder.parameters(), free.encoder.parameters(), strict=True)
    assert all(torch.equal(mine.grad, other.grad.clamp(-1e-4, 1e-4)) for mine, other in pairs)
    assert max(float(p.grad.abs().max()) for p in clamped.predictor.parameters()) > 1e-4


def test_dropout_of_the_teacher_is_off_unless_asked_for(synthetic):
    samples, facts = synthetic
    for asked in (False, True):
        method = small(facts, dropout=0.5, teacher_dropout=asked).train()
        batch = rows(samples)
        first, second = (method.target(method.encoder, batch).values for _ in range(2))
        assert torch.equal(first, second) != asked
        assert method.encoder.training
        method.eval()
        assert not method.target.training


# Check 7: no hidden order of the columns


def test_permuted_columns_give_permuted_tokens(synthetic):
    samples, facts = synthetic
    columns = facts["columns"]
    order = np.random.default_rng(0).permutation(len(columns)).tolist()
    method = small(facts).eval()
    other = small({**facts, "columns": [columns[i] for i in order]}, seed=1).eval()
    state = method.encoder.state_dict()
    mine, theirs = method.encoder.tokenizer, other.encoder.tokenizer
    numbers, codes = mine.numbers.tolist(), mine.codes.tolist()
    theirs_numbers = [order[i] for i in theirs.numbers.tolist()]
    theirs_codes = [order[i] for i in theirs.codes.tolist()]
    for name in ("weight", "scaling.knots", "scaling.heights"):
        state[f"tokenizer.{name}"] = state[f"tokenizer.{name}"][[numbers.index(i) for i in theirs_numbers]]
    for name in ("bias", "missing"):
        state[f"tokenizer.{name}"] = state[f"tokenizer.{name}"][order]
    spans = [torch.arange(int(mine.sizes[codes.index(i)])) + mine.first[codes.index(i)] for i in theirs_codes]
    state["tokenizer.categories"] = state["tokenizer.categories"][torch.cat(spans)]
    other.encoder.load_state_dict(state)
    theirs.coordinates = mine.coordinates[:, [0, *(i + 1 for i in order)]]
    batch = rows(samples)
    expected = method.encoder(batch).values[:, [0, *(i + 1 for i in order)]]
    found = other.encoder({"row": batch["row"][:, order]}).values
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


# Check 8: masks are a function of the step


def test_masks_and_batches_do_not_depend_on_workers(synthetic):
    samples, facts = synthetic
    kind = recipe("t-jepa").preset("tiny", batch_size=16)
    drawn = [
        [batch["row"] for batch, _ in batches(Steps(samples, kind, 16, 0, 3), 0, workers, pin=False)]
        for workers in (0, 2)
    ]
    for mine, other in zip(*drawn, strict=True):
        torch.testing.assert_close(mine, other, equal_nan=True, rtol=0, atol=0)
    method = small(facts)
    first, second = (method.masks(rows(samples), step(7)) for _ in range(2))
    assert torch.equal(first.targets, second.targets)
    assert torch.equal(first.context, second.context)


# The loss


def test_loss_and_ratio_are_their_formulas(synthetic):
    samples, facts = synthetic
    method, batch = small(facts).double(), {"row": rows(samples, 32)["row"].double()}
    losses = method(batch, step(3))
    masks, observed = method.masks(batch, step(3)), method.encoder.tokenizer.observed(batch)
    whole = method.target(method.encoder, batch)
    predicted = method.predictor(method.encoder(batch, keep=masks.context), whole.coordinates, masks)
    errors, usual = [], []
    for row in range(32):
        for block in range(4):
            for place, token in enumerate(masks.targets[row, block].tolist()):
                if not observed[row, token]:
                    continue
                goal = whole.values[row, token]
                mean = whole.values[observed[:, token], token].mean(0)
                errors.append(float((predicted[row, block, place] - goal).square().mean().detach()))
                usual.append(float((mean - goal).square().mean()))
    assert float(losses["loss"].detach()) == pytest.approx(np.mean(errors), rel=1e-9)
    assert float(losses["position_only_ratio"]) == pytest.approx(
        1 - np.mean(errors) / np.mean(usual), rel=1e-9
    )


def test_a_row_without_any_cell_neither_breaks_nor_counts(synthetic):
    samples, facts = synthetic
    for missing in ("token", "absent"):
        for reg in ("none", "always"):
            embedding = "mean" if reg == "none" else "flat"
            method = small(facts, missing=missing, reg=reg, embedding=embedding)
            batch = rows(samples)
            batch["row"][0] = torch.nan
            losses = method(batch, step())
            losses["loss"].backward()
            assert torch.isfinite(losses["loss"])
            assert torch.isfinite(method.embed(batch)).all()
            assert all(torch.isfinite(p.grad).all() for p in method.encoder.parameters())


def test_what_is_absent_is_not_attended_to(synthetic):
    """A row whose missing cell is absent has the tokens of the row without that column."""
    samples, facts = synthetic
    method = small(facts, missing="absent").eval()
    batch = rows(samples)
    batch["row"][:, 3] = torch.nan
    without = [token for token in range(13) if token != 4]
    keep = torch.tensor(without).expand(8, -1)
    whole, cut = method.encoder(batch), method.encoder(batch, keep=keep)
    torch.testing.assert_close(whole.values[:, without], cut.values, atol=1e-5, rtol=1e-4)
    assert torch.equal(method.embed(batch).unflatten(1, (13, 16))[:, 4], torch.zeros(8, 16))


# Tokens


def test_tokens_are_the_formulas_of_the_note():
    columns = [
        {"name": "c", "kind": "categorical", "categories": ["a", "b"], "offset": 0.0},
        {"name": "n", "kind": "numeric", "categories": [], "offset": 0.0, "low": 1.0, "range": 4.0},
    ]
    tokenizer = ColumnTokens(columns, 6)
    assert places(columns, 1) == [0, 2, 1], "[REG], numbers, categories"
    values = tokenizer({"row": torch.tensor([[2.0, 3.0], [7.0, torch.nan]])}).values
    reg, category, number = values[0]
    assert torch.equal(reg, tokenizer.registers[0])
    assert torch.equal(category, tokenizer.categories[2] + tokenizer.bias[0])
    torch.testing.assert_close(number, tokenizer.weight[0] * 0.5 + tokenizer.bias[1])
    assert torch.equal(values[1, 1], tokenizer.categories[0] + tokenizer.bias[0]), "the bucket of the unseen"
    assert torch.equal(values[1, 2], tokenizer.missing[1])


def test_kind_and_number_of_a_column_can_be_embedded(synthetic):
    samples, facts = synthetic
    plain, both = (
        small(facts, type_embedding=on, index_embedding=on).encoder.tokenizer for on in (False, True)
    )
    both.load_state_dict({**both.state_dict(), **plain.state_dict()})
    batch = rows(samples)
    added = both(batch).values - plain(batch).values
    coded = [int(c["kind"] in ("categorical", "boolean")) for c in facts["columns"]]
    torch.testing.assert_close(added[0, 1:], both.types[coded] + both.indices)
    assert not added[:, 0].any(), "nothing to [REG]"


def test_scalings_agree_with_scikit_learn_and_scipy():
    values = np.random.default_rng(0).lognormal(size=(400, 2))
    samples = TABLE.open(values)
    columns = TABLE.measure(samples)["columns"]
    cells = torch.from_numpy(samples.array)
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    for scaling, theirs in [("min-max", MinMaxScaler()), ("standard", StandardScaler())]:
        found = Scaling(columns, scaling)(cells).numpy()
        np.testing.assert_allclose(found, theirs.fit_transform(values), atol=1e-4)
    found = Scaling(columns, "quantile")(cells).numpy()
    exact = norm.ppf((rankdata(values, axis=0) - 0.5) / 400)
    assert np.abs(found - exact).mean() < 0.03, "straight lines between 33 quantiles"
    beyond = Scaling(columns, "quantile")(torch.tensor([[1e9, -1e9]]))
    assert beyond.abs().max() < 4


def test_the_calendar_turns_once_a_day_a_week_a_year():
    offset = torch.tensor([[7300.25 % period for period in (1.0, 7.0, 365.2425)]], dtype=torch.float64)
    days = torch.tensor([[0.0], [1.0], [7.0], [0.5]], dtype=torch.float64)
    waves = calendar(days, offset)[:, 0]
    same = torch.isclose(waves, waves[:1], atol=1e-9)
    assert same[1].tolist() == [True, False, False] * 2
    assert same[2].tolist() == [True, True, False] * 2
    torch.testing.assert_close(waves[3, [0, 3]], -waves[0, [0, 3]])
    assert torch.allclose(waves[:, :3] ** 2 + waves[:, 3:] ** 2, torch.ones(4, 3, dtype=torch.float64))


# The recipe


def test_defaults_are_those_of_the_script():
    kind = recipe("t-jepa").preset("paper")
    assert (kind.width, kind.depth, kind.heads, kind.feedforward, kind.dropout) == (64, 16, 2, 64, 0.00185)
    assert (kind.predictor_width, kind.predictor_depth, kind.predictor_heads) == (16, 16, 4)
    assert (kind.predictor_feedforward, kind.predictor_dropout) == (256, 0.00193)
    assert (kind.context_share, kind.target_share) == JANNIS
    assert (kind.batch_size, kind.epochs, kind.warmup_epochs) == (512, 300, 10)
    assert (kind.learning_rate, kind.start_learning_rate, kind.final_learning_rate) == (3.66e-4, 0, 0)
    assert (kind.weight_decay, kind.final_weight_decay, kind.momentum) == (0, 0, (0.996, 1.0))


def test_the_encoder_ends_as_published_and_has_its_parameters(synthetic):
    samples, _ = synthetic
    kind = recipe("t-jepa").preset("paper")
    method = kind.method(TABLE.measure(samples))
    names = [type(layer).__name__ for layer in method.encoder.norm]
    assert names == ["Dropout", "LayerNorm", "Linear", "Dropout", "LayerNorm"]
    assert type(method.predictor.norm[-1]).__name__ == "LayerNorm"
    block = 4 * (64 * 64 + 64) + 2 * (64 * 64 + 64) + 4 * 64
    assert sum(p.numel() for p in method.encoder.blocks.parameters()) == 16 * block
    assert sum(p.numel() for p in method.encoder.norm.parameters()) == 64 * 64 + 64 + 4 * 64
    assert all(b.post_norm for b in [*method.encoder.blocks, *method.predictor.blocks])


def test_an_encoder_block_agrees_with_torch(synthetic):
    """PyTorch's own post-norm layer, given the same weights."""
    _, facts = synthetic
    block = small(facts).eval().encoder.blocks[0].double()
    theirs = torch.nn.TransformerEncoderLayer(
        16, 2, 32, activation="relu", layer_norm_eps=1e-6, batch_first=True
    )
    theirs = theirs.double().eval()
    names = {
        "self_attn.in_proj_weight": "attention.qkv.weight", "self_attn.in_proj_bias": "attention.qkv.bias",
        "self_attn.out_proj.weight": "attention.out.weight", "self_attn.out_proj.bias": "attention.out.bias",
        "linear1.weight": "mlp.0.weight", "linear1.bias": "mlp.0.bias",
        "linear2.weight": "mlp.2.weight", "linear2.bias": "mlp.2.bias",
        "norm1.weight": "norm1.weight", "norm1.bias": "norm1.bias",
        "norm2.weight": "norm2.weight", "norm2.bias": "norm2.bias",
    }  # fmt: skip
    theirs.load_state_dict({name: block.state_dict()[mine] for name, mine in names.items()})
    x = torch.randn(3, 7, 16, dtype=torch.float64, generator=Generator().manual_seed(0))
    torch.testing.assert_close(block(x), theirs(x))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"width": 30, "heads": 4}, "divide into --heads"),
        ({"width": 15, "heads": 3}, "must be even"),
        ({"reg": "none", "embedding": "reg"}, "needs a"),
        ({"reg_tokens": 0}, "--reg none"),
        ({"context_share": (0.5, 0.2)}, "--context-share"),
        ({"columns": "age"}, "states no type"),
    ],
)
def test_fields_that_cannot_work_say_so(fields, complaint):
    with pytest.raises(UserError, match=complaint):
        recipe("t-jepa").preset("tiny", **fields)


def test_a_teacher_that_cannot_move_is_warned_of(synthetic):
    _, facts = synthetic
    method = small(facts, momentum=(0.996, 1.0))
    assert isinstance(method.target, EmaTeacher)
    assert "0.996" in method.cautions(400)[0]
    assert method.cautions(2000) == []
    assert small(facts, teacher="none").cautions(10) == []
