"""A catalogue of millions of items: encoded, embedded and searched, with the memory each step takes.

Items are drawn at random with the fields of `synthetic-shop` (an id of its own for each, told by a digest),
embedded by a tower of the recipe's size in blocks, kept as single-precision vectors in a file that is mapped,
and searched exactly and through FAISS. Memory is the process's own, by the system's count: at its peak
so far (which counts pages of the mapped file while they are held), and what the index alone added.
Random towers spread items evenly, which no list helps with: a run's are easier.

    python benchmarks/catalogue.py --items 10000000 --queries 500
    python benchmarks/catalogue.py --items 1000000 --run runs/shop
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import anyjepa
from anyjepa.domains import domains
from anyjepa.domains.interaction_fields import Field
from anyjepa.engine.run import Run, build_method
from anyjepa.evaluation.catalogue_search import ApproximateCatalogue, exact_best
from anyjepa.recipes import recipe

BLOCK = 2**17


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def resident() -> float:
    """Resident memory now, in GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def main() -> None:
    """Print one line a step, and last one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--most", type=int, default=50, help="items a query")
    parser.add_argument("--probes", type=int, nargs="+", default=[32, 128, 512], help="lists looked through")
    parser.add_argument("--run", help="a run of item-ssl on synthetic-shop; else random towers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    method, facts = _towers(None if options.run is None else anyjepa.load(options.run, "cpu"))
    began = resident()
    rows: dict[str, object] = {"items": options.items, "libraries_gb": round(began, 3)}
    with tempfile.TemporaryDirectory() as folder:
        width = method.recipe.layers[-1]
        vectors = np.lib.format.open_memmap(
            Path(folder) / "vectors.npy", "w+", np.float32, (options.items, width)
        )
        start = time.perf_counter()
        with torch.inference_mode():
            for first in range(0, options.items, BLOCK):
                count = min(BLOCK, options.items - first)
                batch = _items(facts, count, [options.seed, first])
                vectors[first : first + count] = method.embed(batch).numpy()
        vectors.flush()
        rows |= {"embed_seconds": time.perf_counter() - start, "embed_peak_gb": peak(),
                 "vectors_gb": vectors.nbytes / 1e9}  # fmt: skip
        _say("embedded", rows, "embed_seconds", "embed_peak_gb", "vectors_gb")
        random = np.random.default_rng(options.seed)
        near = np.sort(random.choice(options.items, options.queries, replace=False))
        queries = torch.from_numpy(np.array(vectors[near]))
        queries = torch.nn.functional.normalize(
            queries + 0.3 * torch.randn_like(queries) * width**-0.5, dim=1
        )
        start = time.perf_counter()
        blocks = (torch.from_numpy(np.array(vectors[s : s + BLOCK])) for s in range(0, options.items, BLOCK))
        _, exact = exact_best(queries, blocks, options.most)
        seconds = time.perf_counter() - start
        rows |= {"exact_ms_a_query": 1000 * seconds / options.queries, "exact_peak_gb": peak()}
        _say("exact", rows, "exact_ms_a_query", "exact_peak_gb")
        held, start = resident(), time.perf_counter()
        sample = random.choice(options.items, min(options.items, 64 * int(4 * options.items**0.5)), False)
        index = ApproximateCatalogue(torch.from_numpy(np.array(vectors[np.sort(sample)])), options.items)
        rows["lists"] = index.index.nlist
        for first in range(0, options.items, BLOCK):
            index.add(torch.from_numpy(np.array(vectors[first : first + BLOCK])))
        saved = Path(folder) / "catalogue.faiss"
        index.save(str(saved))
        rows |= {"index_seconds": time.perf_counter() - start, "index_peak_gb": peak(),
                 "index_file_gb": saved.stat().st_size / 1e9, "index_held_gb": resident() - held}  # fmt: skip
        _say("index", rows, "index_seconds", "index_held_gb", "index_file_gb", "index_peak_gb")
        searches = []
        for probes in options.probes:
            index.index.nprobe = probes
            start = time.perf_counter()
            _, found = index.best(queries, options.most)
            spent = time.perf_counter() - start
            right = np.mean(
                [len(np.intersect1d(a, b)) for a, b in zip(exact.numpy(), found.numpy(), strict=True)]
            )
            row = {"probes": probes, "recall": float(right / options.most),
                   "ms_a_query": 1000 * spent / options.queries}  # fmt: skip
            searches.append(row)
            _say(f"{probes} lists", row, "recall", "ms_a_query")
        rows["searches"] = searches
    print(json.dumps(rows))


def _towers(run: Run | None):
    """A method with towers of the recipe's size, whose ids are told by a digest, and the facts it reads."""
    if run is not None:
        return run.method, run.facts
    kind = recipe("item-ssl").preset("paper")
    domain = domains()[kind.domain]
    facts = domain.measure(domain.open(kind.example_data, reading=kind.reading()))
    facts["item_fields"][0] |= {"values": [], "rows": 2**20}
    return build_method(kind, facts, 0).eval(), facts


def _items(facts: dict, count: int, seed: list[int]) -> dict[str, torch.Tensor]:
    """Items of random fields."""
    random = np.random.default_rng(seed)
    fields = [Field.of(one) for one in facts["item_fields"]]
    codes = [random.integers(1, f.rows, (count, f.slots)) for f in fields if f.kind != "number"]
    numbers = random.standard_normal((count, sum(f.kind == "number" for f in fields)), dtype=np.float32)
    return {"codes": torch.from_numpy(np.concatenate(codes, axis=1)), "numbers": torch.from_numpy(numbers)}


def _say(what: str, row: dict, *names: str) -> None:
    print(f"{what:>10}  " + "  ".join(f"{name} {row[name]:.4g}" for name in names), flush=True)


if __name__ == "__main__":
    main()
