"""Putting a run's encoder on the Hugging Face hub, through its own client."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import yaml

from anyjepa.core.errors import UserError, require
from anyjepa.engine.card import model_card
from anyjepa.engine.files import explained, write_whole
from anyjepa.engine.run import Run, load
from anyjepa.engine.takeaway import export


def push(
    run: Run | str | Path, repo: str, format: str = "safetensors", *, private: bool = False
) -> dict[str, Any]:
    """Export a run, and upload what comes of it with its card and its settings in one commit.

    Where the client is pointed to another hub (``HF_ENDPOINT``) or has a token from elsewhere (``HF_TOKEN``),
    this follows. The source of the data is not uploaded, its fingerprint is.

    Args:
        run: a run or its folder.
        repo: OWNER/NAME; made if it is not there.
        format: as of `export`.
        private: for you only, where the repository is made.

    Returns:
        ``repo``, ``url``, ``commit``, ``files`` and ``max_difference``.

    Raises:
        UserError: not logged in, no such owner, no network, or what `export` raises.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"--repo is OWNER/NAME on the hub, not '{repo}'.")
    library = require("huggingface_hub", "hub")
    errors = require("huggingface_hub.errors", "hub")
    run = run if isinstance(run, Run) else load(run)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / repo.split("/")[1]
        with explained(f"prepare the upload of {run.path}"):
            folder.mkdir()
        exported = export(run, format, folder)
        _complete(run, folder, exported, repo)
        client = library.HfApi(library_name="anyjepa")
        try:
            made = client.create_repo(repo, private=private or None, exist_ok=True)
            commit = client.upload_folder(
                repo_id=made.repo_id, folder_path=folder, commit_message=f"{run.recipe.name} by anyjepa"
            )
        except errors.LocalTokenNotFoundError as problem:
            raise UserError(
                "you are not logged in to the hub: `hf auth login`, or set HF_TOKEN."
            ) from problem
        except errors.HfHubHTTPError as problem:
            raise UserError(_refused(repo, problem)) from problem
        except (errors.HFValidationError, _no_answer(errors), OSError) as problem:
            line = (str(problem).splitlines() or [type(problem).__name__])[0]
            raise UserError(f"the hub could not take {repo}: {line.rstrip('.')}.") from problem
        return {
            "repo": made.repo_id,
            "url": str(made),
            "commit": commit.oid,
            "files": sorted(file.name for file in folder.iterdir()),
            "max_difference": exported["max_difference"],
        }


def _no_answer(errors: Any) -> type[Exception]:
    """What the client raises without a network: of the HTTP library it is built on, which has changed."""
    kinds = [kind for kind in errors.HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"]
    return kinds[-1] if kinds else OSError


def _complete(run: Run, folder: Path, exported: dict[str, Any], repo: str) -> None:
    """The card that names the repository, and the settings without where the data lay."""
    out = Path(exported["out"])
    card = model_card(run, out.name if out.is_file() else "", exported["format"], exported, repo=repo)
    settings = {**run.config, "data": {**run.config["data"], "source": None}}
    settings.pop("init", None)
    with explained(f"prepare the upload of {run.path}"):
        write_whole(folder / "README.md", card.encode())
        write_whole(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False).encode())


def _refused(repo: str, problem: Any) -> str:
    code = getattr(getattr(problem, "response", None), "status_code", None)
    why = {
        401: "you are not logged in, or the token is no longer valid: `hf auth login`, or set HF_TOKEN",
        403: f"your token may not write to {repo}: choose another --repo, or a token that may write",
        404: f"there is no {repo} that you can write to: choose another --repo",
    }.get(code or 0)
    said = (getattr(problem, "server_message", None) or str(problem).splitlines()[0]).rstrip(".")
    return f"the hub refused {repo}: {why or said}."
