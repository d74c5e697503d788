"""What torchrun starts in test_processes.py: one process of those that train what it is given."""

import json
import os
import sys
import time
from pathlib import Path

from anyjepa.engine.loading import Loaded, Steps
from anyjepa.engine.train import Settings, train


def hang(rank: int, step: int) -> None:
    """Loading in one of the processes waits for ever once a step is reached, wherever it is loaded."""
    if int(os.environ["RANK"]) != rank:
        return
    load = Steps.__getitem__

    def hanging(self: Steps, index: int) -> Loaded:
        if index >= step:
            Path(f"{os.environ['SAY']}-hangs").touch()
            time.sleep(200)
        return load(self, index)

    Steps.__getitem__ = hanging


def main(asked: str) -> None:
    for run in json.loads(Path(asked).read_text()):
        if "hang" in run:
            hang(*run["hang"])
        settings = Settings(**{"quiet": True, "workers": 0, "device": "cpu", **run["settings"]})
        fields = {name: tuple(v) if isinstance(v, list) else v for name, v in run["fields"].items()}
        result = train(
            run["recipe"],
            run["data"],
            run["out"],
            resume=run.get("resume", False),
            settings=settings,
            **fields,
        )
        if "SAY" in os.environ:
            Path(f"{os.environ['SAY']}-{os.environ['RANK']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
