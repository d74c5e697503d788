# ruff: noqa: E501  (the lines are those of the page)
"""docs/scaling.md: words around the figures that scaling.py counts, measures and works out."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from scaling_model import Machine

MEANING = {
    "gpus_a_node": "GPUs of a node",
    "peak": "bf16 FLOP/s of a GPU by its data sheet",
    "reached": "share of it that the matrix products of a step reach",
    "memory": "bytes of a GPU",
    "inside": "bytes/s of an all-reduce within a node",
    "between": "bytes/s a GPU between nodes",
    "hop": "seconds of latency between nodes",
    "bucket": "bytes that are reduced together",
    "cores_a_gpu": "CPU cores beside a GPU",
    "hours_between_failures": "hours between failures of one GPU",
    "jitter": "deviation of the logarithm of a GPU's step time",
    "hiccup": "chance of a hiccup a GPU and step, and its length in steps",
    "image_bytes": "bytes of a photograph",
}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" + "--:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def page(machine: Machine, found: dict[str, Any], plan: dict[str, Any]) -> str:
    """The whole page."""
    parts = [
        _head(found),
        _machine(machine),
        _counted(found),
        _step(plan),
        _time(plan),
        _data(machine, found, plan),
    ]
    return "\n\n".join([*parts, _breaks(machine, found, plan)]) + "\n"


def _head(found: dict[str, Any]) -> str:
    return f"""# A plan for internet scale

What pre-training with I-JEPA costs from 8 to 4,096 GPUs, which part gives out first, and how to do it with
`anyjepa`. The whole page is written by

    python benchmarks/large_data.py --folder /tmp/large --json > benchmarks/results/large_data.json
    python benchmarks/scaling.py --large benchmarks/results/large_data.json --page docs/scaling.md

What is **counted** or **measured** was so on a machine with {found["machine"]} and torch {found["torch"]};
the machine had other work, so rates are lower bounds;
nothing was run on more than two processes, and none on a GPU. What is **planned** is arithmetic and
simulation on the assumptions below: change them in `benchmarks/scaling_model.py` and run it again.

## How to

    anyjepa pack photos/ shards/photos                              # shards with an index; put them on a server
    torchrun --nnodes 8 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m anyjepa train i-jepa --data wds:https://SERVER/photos --preset paper --out runs/large
    anyjepa train i-jepa --data wds:shards/photos --out runs/large --slurm --slurm-nodes 8 --slurm-gpus 8
    torchrun --nproc-per-node 8 -m anyjepa embed runs/large --data wds:shards/photos --out vectors.parquet

The batch is the run's, not a process's: the same command on other numbers of processes learns the same, and
goes on from the same checkpoint."""


def _machine(machine: Machine) -> str:
    rows = []
    for field in fields(machine):
        value = getattr(machine, field.name)
        shown = " and ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else f"{value:,g}"
        rows.append([MEANING[field.name], f"`{field.name}`", shown])
    return "## Assumed\n\nNodes of eight H100 SXM, an adapter of 400 Gb/s each.\n\n" + table(
        ["what", "name", "value"], rows
    )


def _counted(found: dict[str, Any]) -> str:
    rows = [
        [name, f"{one['counted']:,.0f}", f"{one['formula']:,.0f}", f"{one['counted'] / one['formula'] - 1:+.4%}",
         f"{one['parameters']:,}", f"{one['parameters_formula']:,}"]
        for name, one in found["flops"].items()
    ]  # fmt: skip
    wire = found["collectives"]
    flops = table(["model", "FLOPs counted", "by formula", "apart", "parameters", "by formula"], rows)
    return f"""## Counted here

FLOPs of one sample's step (teacher forward, context and predictor forward and backward), by
`torch.utils.flop_counter` on the recipe itself and by the formula that the plan uses:

{flops}

A block keeps **{found["kept_widths"]:.2f} widths** a token for its backward pass (tensors saved by autograd,
each storage once).

Two gloo processes in a real training of {wire["parameters"]:,.0f} parameters hand **{wire["gradient_bytes"]:,.0f}
bytes** of gradients a step to the all-reduce, in {wire["buckets"]:.2f} buckets; the formula, four bytes a
parameter, gives {4 * wire["parameters"]:,.0f}. All other collectives of a step (losses, health, signals) are
{wire["other_bytes"]:,.0f} bytes in {wire["other_calls"]:.1f} calls."""


def _step(plan: dict[str, Any]) -> str:
    rows = [
        [name, f"{one['parameters']['trained'] / 1e6:,.0f} M", f"{one['gflops']:,.0f}", f"{one['context']} + 4 x {one['target']}",
         f"{one['state_gb']:.1f}", f"{one['sharded_gb'][64]:.2f}", f"{one['activations_mb']:.0f}", f"{one['largest_batch']:,}",
         f"{one['reduced_gb']:.2f}"]
        for name, one in plan["models"].items()
    ]  # fmt: skip
    head = ["model", "trained", "GFLOP a sample", "tokens", "state GB (DDP)", "state GB (FSDP, 64)",
            "activations MB a sample", "largest batch a GPU", "reduced GB a step"]  # fmt: skip
    return f"""## A step, planned

State is fp32 weights, gradients and Adam's moments of encoder and predictor, and the teacher; activations are
bf16. All four models fit a GPU of 80 GB under DDP: FSDP2 is for what comes after ViT-g.

{table(head, rows)}"""


def _time(plan: dict[str, Any]) -> str:
    text = ["## Time, planned\n"]
    text.append(
        "Two thirds of the computing can hide the all-reduce; the slowest GPU keeps all others waiting: by a\n"
        "factor of "
        + ", ".join(f"{wait:.2f} on {gpus:,} GPUs" for gpus, wait in plan["waiting"].items())
        + " (simulated).\nEfficiency is beside one GPU with 32 samples that waits for nobody."
    )
    for title in ("batch 2,048", "32 a GPU"):
        rows = []
        for name, one in plan["models"].items():
            cells = [name]
            for gpus, row in one["tables"][title].items():
                del gpus
                cells.append(
                    f"{row['milliseconds']:.0f} ms, {row['samples_per_second']:,.0f}/s, {row['efficiency']:.0%}"
                )
            rows.append(cells + ["-"] * (5 - len(cells)))
        words = "The published batch of 2,048" if title == "batch 2,048" else "32 samples a GPU"
        text.append(f"{words}:\n\n" + table(["model", *(f"{g:,} GPUs" for g in plan["waiting"])], rows))
    return "\n\n".join(text)


def _data(machine: Machine, found: dict[str, Any], plan: dict[str, Any]) -> str:
    loading = found["loading"]
    rows = []
    for name, one in plan["models"].items():
        need = one["samples_a_gpu"]
        rows.append([name, f"{need:,.0f}", f"{need / loading['samples_per_second']:.1f}",
                     f"{need * machine.gpus_a_node * machine.image_bytes / 1e9:.2f}",
                     f"{need * 4096 * machine.image_bytes / 1e9:,.0f}"])  # fmt: skip
    starving = [
        [f"{float(load):.0%} of a step", *(f"{share:.1%}" for share in ranks.values())]
        for load, ranks in found["starving"].items()
    ]
    need = table(
        ["model", "samples/s a GPU", "cores of this machine a GPU", "GB/s a node", "GB/s on 4,096 GPUs"], rows
    )
    wait = table(
        ["mean time to load a batch", *(f"{g} ranks" for g in next(iter(found["starving"].values())))],
        starving,
    )
    large = found.get("large")
    text = f"""## Data

**Measured:** one core reads JPEG pictures ({loading["side"]} px, {loading["bytes_each"] / 1e3:.0f} kB) from a
pack, decodes and crops them to 224 pixels at **{loading["samples_per_second"]:.0f} samples/s**; the times of
its batches deviate by {loading["variation"]:.0%}.

{need}

**Simulated** from the measured batch times, four batches ahead of each rank, all ranks in step: the share of
the time that GPUs wait for data.

{wait}"""
    return text if large is None else text + "\n\n" + _large(large)


def _large(large: dict[str, Any]) -> str:
    shards, pack, opened, files = (large[name] for name in ("open_shards", "pack", "open_pack", "files"))
    rows = [
        [f"{workers} loader processes", *(f"{large[f'epoch_workers_{workers}'][name]:,.0f}" for name in
         ("resident_mb_at_1_percent", "resident_mb_at_10_percent", "resident_mb_at_100_percent", "samples_per_second"))]
        for workers in (0, 2)
    ]  # fmt: skip
    memory = table(["", "MB at 1 %", "MB at 10 %", "MB at 100 %", "samples/s"], rows)
    return f"""**Measured** by `benchmarks/large_data.py` on {large["samples"]:,} samples of 16 x 16 pixels: shards of
another tool are opened in {shards["open_seconds"]:.1f} s ({shards["resident_mb"]:,.0f} MB), packed at
{pack["samples_per_second"]:,.0f} samples/s by two processes, and the pack is opened in
{opened["open_seconds"]:.1f} s ({opened["resident_mb"]:,.0f} MB, {opened["resident_mb"] * 1e6 / large["samples"]:.0f} bytes a
sample). Resident memory (anonymous pages, each shared page once) over one epoch of loading:

{memory}

A folder of {files["files"]:,} files is opened in {files["open_seconds"]:.1f} s by {files["scandir_calls"]} listings of
its three folders: {files["entries_listed_per_file"]:.2f} entries a file, {files["files_opened"]} files opened."""


def _breaks(machine: Machine, found: dict[str, Any], plan: dict[str, Any]) -> str:
    models, ordering, write = plan["models"], found["ordering"], found["write_bytes_per_second"]
    giant, base = models["ViT-g/14"], models["ViT-B/16"]
    loading = found["loading"]["samples_per_second"]
    cores = base["samples_a_gpu"] / loading
    hours = machine.hours_between_failures / 4096
    state = giant["state_gb"] - 4 * giant["parameters"]["trained"] / 1e9
    seconds = state * 1e9 / write
    lost = (2 * seconds * hours * 3600) ** 0.5
    billion = 1e9 * ordering["permutation_bytes_each"] / 1e9
    published = base["tables"]["batch 2,048"]
    huge = models["ViT-H/14"]["tables"]["32 a GPU"]
    fetched = {g: row["samples_per_second"] * machine.image_bytes / 1e9 for g, row in huge.items()}
    large = found.get("large")
    index = f"{large['open_pack']['resident_mb'] * 1e6 / large['samples']:.0f}" if large else "some 70"
    return f"""## What would break first

1. **Loading, on one node already.** A GPU that trains ViT-B takes {base["samples_a_gpu"]:,.0f} samples/s: {cores:.0f} cores as
   fast as this one was, of the {machine.cores_a_gpu} assumed{", which is too many" if cores > machine.cores_a_gpu else ""}. Larger encoders are gentler: ViT-g takes
   {giant["samples_a_gpu"]:,.0f} samples/s, {giant["samples_a_gpu"] / loading:.1f} cores. Smaller JPEG files (packed at 256 pixels)
   or decoding on the GPU come before more GPUs.
2. **The batch, at a few hundred.** With the published 2,048 samples ViT-B keeps
   {published[64]["efficiency"]:.0%} of its efficiency on 64 GPUs and {published[512]["efficiency"]:.0%} on 512, which have
   {published[512]["batch"]:.0f} samples each; 4,096 GPUs have less than one each. More GPUs want a larger batch, and
   with it other learning rates than the published ones.
3. **Order and index, at a billion samples.** A permutation takes {ordering["permutation_bytes_each"]:.0f} bytes a
   sample in every loader process ({billion:.0f} GB for a billion). Shards at an address are therefore shuffled by
   windows, which take {ordering["windowed_bytes"] / 1e6:.1f} MB for {ordering["samples"]:,} samples; shards on a local disk
   still take the permutation. The index takes {index} bytes a sample in each rank: beyond a few hundred million
   samples a rank should hold only its own shards' part.
4. **Shards that every node fetches.** A window's samples are spread over all ranks, so each node fetches every
   shard: for ViT-H at 32 samples a GPU {fetched[64]:.1f} GB/s on 64 GPUs and {fetched[4096]:.0f} GB/s on 4,096, where a
   node's adapters carry {machine.between * machine.gpus_a_node / 1e9:.0f} and the gradients need them too. Lanes of shards, each
   for some ranks only, must then take the place of one order for all.
5. **Failures, at 4,096.** One every {hours:.1f} hours. ViT-g's {state:.1f} GB of state takes {seconds:.0f} s to write
   at this machine's {write / 1e6:.0f} MB/s, so that the best interval is {lost / 60:.0f} minutes (Young 1974) and the
   engine's one a minute would be too many; sharded checkpoints divide it by the ranks.
6. **Stragglers, at 4,096.** The slowest of all costs a factor of {plan["waiting"][4096]:.2f}, most of it rare hiccups: look for
   the node, not for the code.
7. **Memory of a GPU is not among them**: state and {giant["largest_batch"]:,} samples of ViT-g fit under DDP, and
   {giant["reduced_gb"]:.1f} GB a step are reduced in {giant["reduce_milliseconds"][4096]:.0f} ms on 4,096 GPUs."""
