"""What comes from data is text wherever it is shown, and nothing that is read is executed."""

import hashlib
import json
import pickle
import re

import numpy as np
import pytest
from small import pictures, train_small, words

from anyjepa.cli import main
from anyjepa.core.errors import BadSample, UserError, visible
from anyjepa.engine.checkpoint import checkpoints, newest_checkpoint
from anyjepa.engine.files import read_lines
from anyjepa.engine.folder import read_config

SCRIPT = "<script>alert(1)<["  # what follows the slash closes a tag of the terminal's markup
COLOURED = "\x1b[31mred\n[bold][link=x] :smile: =1+1"
HARMFUL = re.compile(r"<script>alert|<img src=x")


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    for index, picture in enumerate(pictures(40)):
        path = tmp_path / "data" / (SCRIPT, COLOURED)[index % 2] / f"red]<img src=x>{index}\x1b[2J\n.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, "PNG")
    (tmp_path / "data" / SCRIPT / "bad]\x1b]0;title\x07\n<b>.png").write_bytes(b"no picture")
    return tmp_path / "data"


def test_names_are_text_in_the_terminal_the_report_the_card_and_the_tables(tmp_path, folder, capfd):
    out = tmp_path / "<img src=x>\x1b[31m run"
    typed = ["train", "i-jepa", "--data", folder, "--out", out, "--steps", "4", "--log-every", "1",
             "--max-bad-fraction", "0.5", *words()]  # fmt: skip
    after = [
        ["evaluate", out, "--data", folder, "--probe", "knn"],
        ["report", out],
        ["inspect", out],
        ["embed", out, "--out", tmp_path / "e.parquet"],
        ["embed", out, "--out", tmp_path / "e.npy"],
        ["export", out, "--format", "safetensors", "--out", tmp_path / "card" / "e.safetensors"],
    ]
    for command in [typed, *after]:
        assert main([str(word) for word in command]) == 0, capfd.readouterr()
        said = capfd.readouterr()
        assert "\x1b" not in said.out + said.err
        assert "\x07" not in said.out + said.err
    assert [row["sample"] for row in read_lines(out / "skipped.jsonl")] == [
        f"{SCRIPT}/bad]\x1b]0;title\x07\n<b>.png"
    ]
    for page in [*out.glob("*.html"), *tmp_path.glob("card/*.md")]:
        content = page.read_text().rpartition("---\n")[2]  # after the card's settings, which are YAML
        assert not HARMFUL.search(content), page
        assert "\x1b" not in content, page
    names = (tmp_path / "e.ids.txt").read_text().splitlines()
    assert len(names) == len(np.load(tmp_path / "e.npy")) == 40
    assert "\x1b" not in "".join(names)


def test_an_error_is_one_line_whatever_it_names(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "\x1b[31mno\nrun[/]")]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "\\x1b[31mno\\nrun[/]" in said
    assert str(BadSample("a\nb\x1b", "broken\r")) == "a\\nb\\x1b: broken\\r"
    assert visible("Grüße, 漢字 \udcff\u202e") == "Grüße, 漢字 \\udcff\\u202e"


class Payload:
    """Unpickling it would end the process."""

    def __reduce__(self):
        import os

        return os._exit, (9,)


def test_a_checkpoint_with_a_pickle_in_it_is_damaged_even_where_its_digest_fits(tmp_path):
    train_small(tmp_path / "run", pictures(40), steps=4, checkpoint_every=2)
    newest = checkpoints(tmp_path / "run/checkpoints")[0]
    content = pickle.dumps({"method.weight": Payload()})
    (newest / "state.safetensors").write_bytes(content)
    record = json.loads((newest / "progress.json").read_text())
    record["sha256"] = hashlib.sha256(content).hexdigest()
    (newest / "progress.json").write_text(json.dumps(record))
    found, complaints = newest_checkpoint(tmp_path / "run/checkpoints")
    assert found.step == 2
    assert "damaged" in complaints[0]


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os._exit [9]", "!!python/name:os.system", "&a [*a, *a]", "[" * 5000]
)
def test_a_config_builds_no_objects(tmp_path, tag):
    train_small(tmp_path / "run", pictures(40), steps=1)
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text() + f"status: {tag}\n")
    if tag.startswith("&"):
        assert isinstance(read_config(tmp_path / "run")["status"], list)
        return
    with pytest.raises(UserError, match="not readable YAML"):
        read_config(tmp_path / "run")
