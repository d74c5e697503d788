"""Item-SSL: two towers learn from a log, and from views of items that share no field."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core import chance, processes
from anyjepa.core.contrastive import batch_softmax, same_items
from anyjepa.core.errors import UserError
from anyjepa.core.method import Batch, Context, Method, single_at_least
from anyjepa.domains import Samples
from anyjepa.domains.interaction_fields import Field, stated_kinds
from anyjepa.domains.interaction_samples import MOST_PAIRS
from anyjepa.domains.interaction_towers import Tower, TwoTowers
from anyjepa.domains.interactions import as_rows
from anyjepa.recipes import Recipe, flag

LOG_PASSES = 20  # of the re-implementation's default training
NEAREST = 50


@dataclass(frozen=True, kw_only=True)
class ItemSsl(Recipe):
    """Self-supervised learning for item recommendations (Yao et al., CIKM 2021, arXiv:2007.12865).

    One tower makes a vector of a query (a user, a page, an app that is open), one of an item, both from the
    embeddings of their fields; the product of the two says how well they fit. Most items have few
    interactions to learn from, so the item's tower also learns without any: two views of an item, which share
    no field, must be told to be the same among the views of other items. Fields that tell much of each other
    are hidden together (``--masking correlated``), for a view could otherwise be recognised by the twin of
    what is hidden; how much they tell is their mutual information over the catalogue. In lists, single values
    are dropped as well. Items of this task are drawn evenly from the whole catalogue, not from the log, which
    would show the popular ones again. The loss is that of the log plus ``--alpha`` times that of the views.

    A sample is an item of the catalogue, an epoch a pass over it; ``--pairs`` pairs of the log are drawn
    beside each item, so a pass over the log takes interactions / (items x pairs) epochs. What is embedded,
    evaluated and exported is the item's vector of unit length; the query's tower lies beside it.

    There is no official code, and of the paper's numbers none could be read. Sizes, rate, batch and ``alpha``
    are those of LibRecommender's re-implementation; temperature 0.1 is in the usual range. Ours, where it
    differs or the paper is silent:

    * popular items are often negatives, so ln Q of each item is taken off its logit in training (sampled
      softmax; Yi et al. 2019); ``--logq false`` leaves that out, finds more rare items and fewer others
    * an item that is met twice in a batch is no negative of itself (``--same-item negative`` makes it one)
    * mutual information is corrected for chance, and a unique id is related to nothing: else fields of many
      values would always be hidden together
    * information is counted over the catalogue, every item alike, not over the log
    * ``--batch-norm true`` adds the re-implementation's batch normalisation, whose statistics can give the
      pattern of a batch away; ``--pattern row`` draws a pattern for each item
    * a missing value is what a hidden one is, and has a vector of its own that is learned

    Reads a folder with a log and tables of items and users (MovieLens as published, RecBole's files, CSV,
    TSV, Parquet) or one log; ``--query-column``, ``--item-column``, ``--time-column`` and ``--columns
    year=number,genres=list`` say what is not told by names and cells. The last interaction of each query is
    held out (``--held-out 0.2``: the last fifth); ``--cold 0.1`` holds out all of a tenth of the items.
    ``anyjepa evaluate RUN --probe recommendation`` ranks the whole catalogue for each query and gives recall
    and NDCG, over all and by popularity, beside popularity, item-kNN and implicit ALS.
    ``anyjepa recommend RUN`` writes lists of items for the queries.

    Where a log is small, a softmax of temperature 0.1 learns its single interactions by heart: 0.2, as of
    ``tiny``, or fewer epochs do better.

    ``anyjepa train item-ssl --data ml-100k/ --out runs/films``
    """

    name: ClassVar[str] = "item-ssl"
    paper: ClassVar[str] = "arXiv:2007.12865"
    domain: ClassVar[str] = "interactions"
    example_data: ClassVar[str] = "synthetic-shop"
    downstream: ClassVar[tuple[str, ...]] = ("recommendation",)
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "tiny": {"epochs": 80.0, "temperature": 0.2, "pairs": 2, "layers": (64, 64, 32), "value_width": 16},
    }

    epochs: float = 1000.0  # passes over the catalogue
    batch_size: int = 256  # items of the catalogue a step, over all processes
    start_learning_rate: float = 1e-3  # at the first step
    learning_rate: float = 1e-3  # at the end of the warm-up
    final_learning_rate: float = 1e-3  # at the last step
    warmup_epochs: float = 0.0  # epochs in which the learning rate rises
    weight_decay: float = 0.0  # of AdamW at the first step
    final_weight_decay: float = 0.0  # of AdamW at the last step
    epsilon: float = 1e-5  # of AdamW, added to the denominator
    query_column: str = ""  # of the log that names who took something; told by its name where empty
    item_column: str = ""  # of the log that names what was taken; told by its name where empty
    time_column: str = ""  # of the log that says when; told by its name where empty
    value_column: str = ""  # of the log with a rating; told by its name where empty
    least_value: float = 0.0  # interactions of a lower rating are left out; 0 to take all
    columns: str = ""  # kinds that are stated: year=number,genres=list,country=category,note=left-out
    label: str = ""  # column of the items that is their label and no field
    item_id: bool = True  # an item's id is one of its fields
    query_id: bool = True  # a query's id is one of its fields
    held_out: float = 0.0  # share of each query's pairs, the last, that is kept for tests; 0 for the last one
    cold: float = 0.0  # share of the items of which all pairs are kept for tests instead
    pairs: int = 1  # pairs of the log drawn beside each item of the catalogue
    value_width: int = 16  # of a field's embedding
    layers: tuple[int, int, int] = (128, 64, 32)  # widths of each tower's perceptron, the last of its vectors
    batch_norm: bool = False  # normalise hidden layers over the batch
    masking: Literal["correlated", "random", "none"] = "correlated"  # which fields are hidden together
    pattern: Literal["batch", "row"] = "batch"  # one pattern of hidden fields for all items of a step, or own
    value_dropout: float = 0.1  # chance that a value of a list is left out of a view
    alpha: float = 0.2  # weight of the self-supervised loss
    temperature: float = 0.1  # of the softmax over a batch's items
    view_temperature: float = 0.1  # of the softmax over a batch's views
    ssl_items: Literal["catalogue", "log"] = "catalogue"  # where the items of views are drawn from
    ssl_head: bool = False  # views are compared after a further layer, which is not kept
    logq: bool = True  # take the logarithm of an item's share of the log off its logit
    same_item: Literal["left-out", "negative"] = "left-out"  # a positive that is met again in its batch
    pretrain: float = 0.0  # share of the training, its beginning, in which only views are learned from

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        stated_kinds(self.columns)
        for name in ("held_out", "cold", "value_dropout", "pretrain"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{flag(name)} is a share from 0 and below 1, not {getattr(self, name):g}.")
        for name in ("temperature", "view_temperature"):
            if getattr(self, name) <= 0:
                raise UserError(f"{flag(name)} must be above 0, not {getattr(self, name):g}.")
        if self.alpha < 0:
            raise UserError(f"--alpha must be 0 or more, not {self.alpha:g}.")
        if not 1 <= self.pairs <= MOST_PAIRS:
            raise UserError(f"--pairs is 1 to {MOST_PAIRS}, not {self.pairs}.")
        if not self.layers or min(self.layers) < 1:
            raise UserError("--layers needs widths of 1 or more.")

    def reading(self) -> dict[str, Any]:
        """Names of columns, kinds, what is held out and how many pairs are drawn."""
        names = ("query_column", "item_column", "time_column", "value_column", "least_value", "columns",
                 "label", "item_id", "query_id", "held_out", "cold", "pairs")  # fmt: skip
        return {name: getattr(self, name) for name in names}

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """As many epochs as pass over the log 20 times."""
        pairs = cls.presets["tiny"]["pairs"]
        return {"epochs": float(max(1, round(LOG_PASSES * facts["interactions"] / facts["items"] / pairs)))}

    def method(self, facts: dict[str, Any]) -> ItemViews:
        """Both towers, and which fields are hidden together."""
        fields = {
            side: [Field.of(one) for one in facts[f"{side}_fields"]] for side in ("item", "query")
        }  # fmt: skip
        if self.masking != "none" and len(fields["item"]) < 2:
            raise UserError("items have one field, of which no views can be made: say --masking none.")
        towers = {
            side: Tower(fields[side], self.value_width, self.layers, self.batch_norm) for side in fields
        }
        lists = [field.kind == "list" for field in fields["item"] for _ in range(field.slots)]
        together = hidden_together(np.array(facts["relations"]))
        return ItemViews(TwoTowers(towers["item"], towers["query"]), together, lists, self)

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """Items of the catalogue, and the pairs that were drawn beside them."""
        rows = samples if isinstance(samples, np.ndarray) else np.stack(samples)
        if "item" not in (rows.dtype.names or ()):
            raise UserError("training needs the log, not items alone: give it as --data.")
        positive = as_rows(rows["positive"].reshape(-1))
        together = {
            "query_codes": rows["query_codes"].astype(np.int64),
            "query_numbers": rows["query_numbers"],
            "log_probability": rows["log_probability"],
        }
        return {
            **as_rows(rows["item"]),
            **{f"positive_{name}": values for name, values in positive.items()},
            **{
                name: torch.from_numpy(
                    np.array(values, order="C").reshape(values.shape[0] * values.shape[1], *values.shape[2:])
                )
                for name, values in together.items()
            },
        }

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Items as they are."""
        rows = samples if isinstance(samples, np.ndarray) else np.stack(samples)
        if "item" in (rows.dtype.names or ()):
            rows = rows["item"]
        return {name: values for name, values in as_rows(rows).items() if name != "place"}


def hidden_together(relations: Float[np.ndarray, "fields fields"]) -> Bool[np.ndarray, "fields fields"]:
    """Row f: the fields that are hidden where field f is drawn: itself and the half most related to it.

    At least one field is left, so with fewer than 3 fields only f is hidden.
    """
    count = len(relations)
    further = min(count // 2, count - 2) if count > 1 else 0
    apart = relations - 10 * np.eye(count)
    order = np.argsort(-apart, axis=1, kind="stable")[:, :further]
    found = np.eye(count, dtype=bool)
    np.put_along_axis(found, order, True, axis=1)
    return found


class ItemViews(Method):
    """Learn from pairs of a log, and from views of items.

    Args:
        towers: of items and queries.
        together: (fields, fields) see `hidden_together`.
        lists: whether each slot of an item's codes is of a list.
        recipe: the numbers.
    """

    together: Tensor
    lists: Tensor

    def __init__(
        self,
        towers: TwoTowers,
        together: Bool[np.ndarray, "fields fields"],
        lists: list[bool],
        recipe: ItemSsl,
    ) -> None:
        super().__init__()
        self.towers, self.recipe = towers, recipe
        width = recipe.layers[-1]
        head = recipe.ssl_head and recipe.alpha > 0
        self.view_head = nn.Sequential(nn.ReLU(), nn.Linear(width, width)) if head else None
        self.register_buffer("together", torch.from_numpy(together), persistent=False)
        self.register_buffer("lists", torch.tensor(lists, dtype=torch.bool), persistent=False)

    @property
    def backbone(self) -> nn.Module:
        """Both towers."""
        return self.towers

    def hidden(self, items: int, generator: Generator) -> Bool[Tensor, "items fields"]:
        """Fields that the first view hides; the second hides the others."""
        fields, recipe = len(self.together), self.recipe
        device = self.together.device
        if recipe.masking == "none":
            return torch.zeros(items, fields, dtype=torch.bool, device=device)
        own = recipe.pattern == "row"

        def drawn(*shape: int) -> Tensor:
            if own:
                return chance.uniform((items, *shape), generator).to(device)
            with processes.alone():
                return chance.uniform((1, *shape), generator).to(device)

        if recipe.masking == "correlated":
            seed = (drawn() * fields).long().clamp(max=fields - 1)
            return self.together[seed].expand(items, -1)
        size = int(self.together[0].sum())
        rank = drawn(fields).argsort(dim=1).argsort(dim=1)
        return (rank < size).expand(items, -1)

    def dropped(self, codes: Tensor, generator: Generator) -> Bool[Tensor, "items slots"] | None:
        """Values of lists that a view leaves out."""
        if not self.recipe.value_dropout or self.recipe.masking == "none":
            return None
        drawn = chance.uniform(codes.shape, generator).to(codes.device)
        return (drawn < self.recipe.value_dropout) & self.lists

    def two_views(
        self, codes: Tensor, numbers: Tensor, generator: Generator
    ) -> tuple[Float[Tensor, "items dim"], Float[Tensor, "items dim"]]:
        """Vectors of unit length of both views of items."""
        hidden = self.hidden(len(codes), generator)
        found = []
        for part in (hidden, ~hidden if self.recipe.masking != "none" else hidden):
            made = self.towers.items.hidden_layers(codes, numbers, part, self.dropped(codes, generator))
            made = made if self.view_head is None else self.view_head(made)
            found.append(functional.normalize(single_at_least(made), dim=1))
        return found[0], found[1]

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``, of the log ``log_loss`` and of the views ``view_loss``, and the items' ``embedding``.

        ``views_alike`` is the mean cosine of an item's two views.
        """
        recipe = self.recipe
        queries = self.towers.queries(batch["query_codes"], batch["query_numbers"])
        items = self.towers.items(batch["positive_codes"], batch["positive_numbers"])
        left_out = recipe.same_item == "left-out"
        log_loss = batch_softmax(
            single_at_least(queries), single_at_least(items), recipe.temperature,
            batch["log_probability"] if recipe.logq else None,
            same_items(batch["positive_place"]) if left_out else None,
        )  # fmt: skip
        found = {"log_loss": log_loss, "embedding": items.detach()}
        if not recipe.alpha:
            return {"loss": log_loss, **found}
        kind = "" if recipe.ssl_items == "catalogue" else "positive_"
        codes, numbers, place = (batch[kind + name] for name in ("codes", "numbers", "place"))
        first, second = self.two_views(codes, numbers, context.generator)
        view_loss = batch_softmax(first, second, recipe.view_temperature, None, same_items(place))
        alone = context.progress < recipe.pretrain
        return {
            "loss": recipe.alpha * view_loss + (0.0 if alone else 1.0) * log_loss,
            "view_loss": view_loss,
            "views_alike": (first * second).sum(dim=1).mean().detach(),
            **found,
        }

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """Items' vectors, of unit length."""
        return self.towers(batch)

    def embed_queries(self, codes: Tensor, numbers: Tensor) -> Float[Tensor, "queries dim"]:
        """Queries' vectors, of unit length."""
        return self.towers.queries(codes, numbers)

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """Embeddings of items with fields hidden, in turn those drawn and the others."""
        found: list[Tensor] = []
        while len(found) < count:
            found += self.two_views(batch["codes"], batch["numbers"], context.generator)
        return torch.stack(found[:count], dim=1)

    def augmented(self, batch: Batch, context: Context) -> dict[str, Batch]:
        """Both views of one step: which fields each hides, and lists without what was dropped."""
        hidden = self.hidden(len(batch["codes"]), context.generator)
        found = {}
        for name, part in (("one view", hidden), ("the other", ~hidden)):
            gone = self.dropped(batch["codes"], context.generator)
            codes = batch["codes"] if gone is None else torch.where(gone, -1, batch["codes"])
            found[name] = {**batch, "codes": codes, "hidden": part}
        return found

    @torch.no_grad()
    def health(self, batches: Iterable[Batch], context: Context) -> dict[str, float]:
        """``never_near``: share of items that are among the 50 nearest of no other; ``most_near``: largest.

        An item that is near to everything (a hub) is retrieved for every query.
        """
        found = torch.cat([single_at_least(self.embed(batch)) for batch in batches])
        near = min(NEAREST, len(found) - 1)
        if near < 1:
            return {}
        likeness = (found @ found.T).fill_diagonal_(-2)
        times = torch.bincount(likeness.topk(near, dim=1).indices.flatten(), minlength=len(found))
        return {
            "never_near": float((times == 0).float().mean()),
            "most_near": float(times.max()) / (len(found) - 1),
        }
