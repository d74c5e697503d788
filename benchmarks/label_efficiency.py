"""Average precision of a detector on few labels: from a run's encoder, from scratch, and without an encoder.

Labelled frames are drawn at random, anew for each draw; all three are fine-tuned on the same ones.

    python benchmarks/label_efficiency.py runs/ad-l-jepa --fractions 0.05 0.2 0.5 1 --draws 3
    python benchmarks/label_efficiency.py runs/kitti --data kitti/ --epochs 80 --rate 3e-3
"""

from __future__ import annotations

import argparse
import json

import anyjepa
from anyjepa.evaluation.finetuning import FineTuning


def main() -> None:
    """Print one line a share of the labels, and last one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="the run's folder, of ad-l-jepa")
    parser.add_argument("--data", help="frames with boxes (default: what it was trained on)")
    parser.add_argument("--test", help="frames to test on (default: the source's own test part)")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.05, 0.2, 0.5, 1.0])
    parser.add_argument("--draws", type=int, default=3, help="of the labelled frames")
    parser.add_argument("--epochs", type=float, default=20.0, help="passes over the labelled frames")
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tuning = FineTuning(epochs=options.epochs, tune_learning_rate=options.rate, tune_batch_size=16)
    rows = []
    for fraction in options.fractions:
        whole = fraction >= 1
        found = anyjepa.evaluate(
            options.run, options.data, test=options.test, probe="detection", tuning=tuning, seed=options.seed,
            labels_fraction=None if whole else fraction, draws=None if whole else options.draws,
        )  # fmt: skip
        kinds = {
            kind: found["value" if kind == "trained" else kind] for kind in ("trained", "untrained", "raw")
        }
        row = {"fraction": fraction, "frames": found["train"], **kinds, "gain": found["gain_over_untrained"]}
        row["metrics"] = found["metrics"]
        rows.append(row)
        shown = "  ".join(f"{kind} {value:.3f}" for kind, value in kinds.items())
        loose = found["metrics"]["ap_3d_loose"]
        more = "  ".join(f"{kind} {value:.3f}" for kind, value in loose.items())
        print(f"{fraction:5.0%} of the labels ({found['train']} frames)  {shown}   loose: {more}", flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
