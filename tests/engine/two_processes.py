"""What torchrun starts in test_processes.py: one process of those that train what it is given."""

import json
import sys
from pathlib import Path

from anyjepa.engine.train import Settings, train


def main(asked: str) -> None:
    for run in json.loads(Path(asked).read_text()):
        settings = Settings(**{"quiet": True, "workers": 0, "device": "cpu", **run["settings"]})
        fields = {name: tuple(v) if isinstance(v, list) else v for name, v in run["fields"].items()}
        train(
            run["recipe"],
            run["data"],
            run["out"],
            resume=run.get("resume", False),
            settings=settings,
            **fields,
        )


if __name__ == "__main__":
    main(sys.argv[1])
