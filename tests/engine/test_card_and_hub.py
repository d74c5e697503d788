"""The model card, read back by the hub's own library; and an upload through its client to a stand-in."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from small import FIELDS, pictures, train_small

import anyjepa
from anyjepa.core.errors import UserError

TOKEN = "hf_of_the_test"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card") / "run"
    anyjepa.train(
        "i-jepa", "digits", folder, settings=anyjepa.Settings(steps=4, log_every=2, quiet=True), **FIELDS
    )
    anyjepa.evaluate(folder, "digits", probe="knn")
    return anyjepa.load(folder, "cpu")


def test_a_card_is_read_by_the_hubs_library(run, tmp_path):
    from huggingface_hub import ModelCard

    exported = anyjepa.export(run, "safetensors", tmp_path / "out")
    assert exported["card"] == str(tmp_path / "out" / "README.md")
    card = ModelCard.load(exported["card"])
    assert card.data.library_name == "anyjepa"
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert "i-jepa" in card.data.tags
    [score] = card.data.eval_results
    stored = run.results()[-1]
    assert (score.metric_type, score.metric_value) == ("accuracy", stored["value"])
    assert score.dataset_name == "digits"
    assert run.config["data"]["fingerprint"] in card.text
    for name in run.config["fields"]:
        assert f"| {name} |" in card.text
    assert f"| knn | accuracy | **{stored['value']:.3f}**" in card.text
    assert f"| rankme | {run.metrics()[-1]['rankme']:.3f} |" in card.text


@pytest.mark.parametrize("format", ["safetensors", "torchscript"])
def test_the_code_of_a_card_runs(run, tmp_path, monkeypatch, format):
    card = Path(anyjepa.export(run, format, tmp_path / format)["card"])
    code = card.read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(card.parent)
    np.save("DATA.npy", pictures(3))
    found = {"image": torch.zeros(3, 1, 16, 16)}
    exec(
        code.replace(
            'encoder.embed(encoder.open("DATA"))', 'vectors = encoder.embed(encoder.open("DATA.npy"))'
        ),
        found,
    )
    assert found["vectors"].shape == (3, FIELDS["width"])


def test_a_page_of_yours_is_not_overwritten_and_one_of_ours_is(run, tmp_path):
    (tmp_path / "README.md").write_text("# My project\n")
    card = anyjepa.export(run, "safetensors", tmp_path / "a.safetensors")["card"]
    assert card == str(tmp_path / "a.safetensors.README.md")
    assert (tmp_path / "README.md").read_text() == "# My project\n"
    for _ in range(2):
        assert anyjepa.export(run, "safetensors", tmp_path / "b" / "a.safetensors")["card"].endswith(
            "b/README.md"
        )


def test_a_card_says_nothing_that_was_not_measured(tmp_path):
    train_small(tmp_path / "run", pictures(), steps=1)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    card = Path(anyjepa.export(tmp_path / "run", "safetensors", tmp_path / "x")["card"]).read_text()
    assert "Figures" not in card
    assert "model-index" not in card
    assert str(tmp_path) not in card, "where it lay is nobody's business"


class Hub(ThreadingHTTPServer):
    """As much of the hub's HTTP API as an upload needs; keeps what it is sent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.files, self.stored, self.made = {}, {}, []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_):
        pass

    def answer(self, content, code=200):
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def do_GET(self):
        self.answer({}, 404)

    def do_PUT(self):
        content = self.body()
        self.server.stored[hashlib.sha256(content).hexdigest()] = content
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        content, hub = self.body(), self.server
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            hub.made.append(json.loads(content))
            return self.answer({"url": f"{hub.address}/me/thing"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path == "/api/models/me/thing/preupload/main":
            return self.answer({"files": [
                {"path": file["path"], "shouldIgnore": False, "oid": None,
                 "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                for file in json.loads(content)["files"]
            ]})  # fmt: skip
        if self.path == "/me/thing.git/info/lfs/objects/batch":
            return self.answer({"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"{hub.address}/lfs/{one['oid']}"}}}
                for one in json.loads(content)["objects"]
            ]})  # fmt: skip
        if self.path == "/api/models/me/thing/commit/main":
            for line in map(json.loads, content.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.stored[value["oid"]]
            return self.answer({"commitUrl": f"{hub.address}/me/thing/commit/abc", "commitOid": "abc"})
        return self.answer({"error": "no such place"}, 404)


@pytest.fixture
def hub():
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def pushed(run, hub, tmp_path, token=TOKEN):
    # the client reads where the hub is when it is imported, and would keep what a person is logged in with
    places = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | places
    return subprocess.run(
        [sys.executable, "-m", "anyjepa", "push", run.path, "--repo", "me/thing", "--private", "--json"],
        env=environment | ({"HF_TOKEN": token} if token else {}), cwd=tmp_path, capture_output=True,
        text=True, timeout=100, check=False,
    )  # fmt: skip


def test_a_push_uploads_what_loads_again(run, hub, tmp_path):
    done = pushed(run, hub, tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["repo"], told["commit"]) == ("me/thing", "abc")
    assert hub.made[0] == {"name": "thing", "organization": "me", "visibility": "private"}
    assert set(told["files"]) == set(hub.files) == {"README.md", "config.yaml", "model.safetensors"}
    (tmp_path / "model.safetensors").write_bytes(hub.files["model.safetensors"])
    again = anyjepa.load(tmp_path / "model.safetensors", "cpu")
    assert np.array_equal(again.embed(pictures(4)), run.embed(pictures(4)))
    card = hub.files["README.md"].decode()
    assert 'hf_hub_download("me/thing", "model.safetensors")' in card
    assert str(run.path) not in card + hub.files["config.yaml"].decode()


def test_a_push_that_is_refused_is_one_sentence(run, hub, tmp_path):
    done = pushed(run, hub, tmp_path, token=None)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "hf auth login" in done.stderr
    assert hub.files == {}
    with pytest.raises(UserError, match="OWNER/NAME"):
        anyjepa.push(run, "thing")
