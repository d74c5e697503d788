"""Data sets in the hub's layout that are read where they lie."""

import http.server
import pickle
import threading

import numpy as np
import pytest
from pictures import encoded, noise, write

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import domains, image_samples, remote
from anyjepa.domains.hub_streams import GroupRows
from anyjepa.domains.image_sources import open_images
from anyjepa.domains.sources import NoSplit

images = domains()["image"]
GROUP, FILES, EACH = 5, 3, 20  # rows of a row group, files, rows of a file


def parquet_set(folder, side=8):
    """Three Parquet files of train and one of test, as `datasets` writes them."""
    import datasets

    kinds = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"id": datasets.Value("int64"), "picture": datasets.Image(), "kind": kinds})
    (folder / "data").mkdir(parents=True)
    for name, start in [(f"train-{n:05d}-of-{FILES:05d}", n * EACH) for n in range(FILES)] + [
        ("test-00000-of-00001", 900)
    ]:
        rows = range(start, start + EACH)
        content = [{"bytes": encoded(noise(side, side, 3, seed=row)), "path": None} for row in rows]
        columns = {"id": list(rows), "picture": content, "kind": [row % 2 for row in rows]}
        table = datasets.Dataset.from_dict(columns, features)
        table.to_parquet(folder / f"data/{name}.parquet", batch_size=GROUP)
    return folder


def picture_set(folder):
    for row in range(8):
        write(folder / f"train/{'ab'[row % 2]}/{row}.png", noise(8, 8, 3, seed=row))
    write(folder / "test/a/9.png", noise(8, 8, 3, seed=9))
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setenv("ANYJEPA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def far(monkeypatch):
    """Nothing is held in memory, however little it is."""
    monkeypatch.setattr(image_samples, "RESIDENT_BYTES", 0)


def held():
    folder = remote.cache_folder()
    return [file for file in folder.iterdir() if file.name[0] != "."] if folder.exists() else []


@pytest.mark.parametrize("make", [parquet_set, picture_set])
@pytest.mark.parametrize("resident", [0, 2**20])
def test_a_stream_is_the_set_that_hf_reads(tmp_path, monkeypatch, make, resident):
    monkeypatch.setattr(image_samples, "RESIDENT_BYTES", resident)
    folder = make(tmp_path / "set")
    for split in (None, "test"):
        whole = images.open(f"hf:{folder}", split=split)
        stream = images.open(f"hf-stream:{folder}", split=split)
        assert [stream.identity(i) for i in range(len(stream))] == [
            whole.identity(i) for i in range(len(whole))
        ]
        assert all(np.array_equal(stream.read(index), whole.read(index)) for index in range(len(whole)))
        assert stream.classes == whole.classes
        assert np.array_equal(stream.labels, whole.labels)
        assert images.measure(stream) == images.measure(whole)
        assert stream.fingerprint() == images.open(f"hf-stream:{folder}", split=split).fingerprint()
    assert len(images.open(f"hf-stream:{folder}:test")) == len(stream)
    copy = pickle.loads(pickle.dumps(stream))
    assert np.array_equal(copy.read(0), whole.read(0))
    with pytest.raises(NoSplit, match="only"):
        images.open(f"hf-stream:{folder}:other")


def test_labels_are_another_column_or_a_file_where_named(tmp_path, far):
    folder = parquet_set(tmp_path / "set")
    assert images.open(f"hf-stream:{folder}", labels="id").classes == [
        str(row) for row in range(EACH * FILES)
    ]
    with pytest.raises(UserError, match=r"no column 'kin'.*Did you mean 'kind'"):
        images.open(f"hf-stream:{folder}", labels="kin")
    (tmp_path / "labels.csv").write_text("id,label\n0,x\n1,y\n")
    samples = images.open(f"hf-stream:{folder}", labels=str(tmp_path / "labels.csv"))
    assert samples.labels[:3].tolist() == [0, 1, -1]


def test_opening_fetches_next_to_nothing(tmp_path, far, monkeypatch):
    folder = parquet_set(tmp_path / "set")
    fetched = []
    real = GroupRows._fetch

    def counted(self, group, place):
        fetched.append(group)
        real(self, group, place)

    monkeypatch.setattr(GroupRows, "_fetch", counted)
    monkeypatch.setattr(image_samples, "LOOKED_AT", 8)
    monkeypatch.setattr(GroupRows, "values", None)
    samples = open_images(f"hf-stream:{folder}")
    samples.fingerprint()
    assert len(fetched) == 4
    assert samples.blocks.tolist() == list(range(GROUP, EACH * FILES + 1, GROUP))
    for index in (0, 3, 1, 59, 2):
        samples.read(index)
    assert len(fetched) == len(set(fetched)) <= 6
    open_images(f"hf-stream:{folder}").read(0)
    assert len(fetched) == len(set(fetched)), "what is in the cache is not fetched again"


def test_the_cache_is_bounded_and_what_went_comes_again(tmp_path, far, monkeypatch):
    folder = parquet_set(tmp_path / "set", side=48)
    monkeypatch.setenv("ANYJEPA_CACHE_GB", str(2.5 * GROUP * 48 * 48 * 3 / 2**30))
    samples = images.open(f"hf-stream:{folder}")
    rows = samples.stream.store.rows
    for index in [*range(EACH * FILES), *range(EACH * FILES)]:
        rows._open.clear()
        assert np.array_equal(samples.read(index), noise(48, 48, 3, seed=index))
    assert 0 < len(held()) <= 4


class Ranged(http.server.BaseHTTPRequestHandler):
    """Serves parts of files as the hub does, and counts the bytes."""

    sent = 0

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        content = (self.server.folder / self.path.lstrip("/")).read_bytes()
        wanted, size = self.headers.get("Range"), len(content)
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            first, last = int(first), min(int(last or size - 1), size - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            content = content[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            Ranged.sent += len(content)
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def test_a_row_far_away_costs_its_row_group(tmp_path):
    """About a fifth of a file whose row groups are a quarter: what else the file holds stays where it is."""
    folder = parquet_set(tmp_path / "set", side=64)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranged) as server:
        server.folder = folder / "data"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        paths = [
            f"http://127.0.0.1:{server.server_port}/train-{n:05d}-of-{FILES:05d}.parquet"
            for n in range(FILES)
        ]
        size = sum(file.stat().st_size for file in (folder / "data").glob("train-*"))
        rows, Ranged.sent = GroupRows(paths, "picture"), 0
        for row in range(GROUP):
            assert rows.content(row) == encoded(noise(64, 64, 3, seed=row))
        assert rows.size(0) <= Ranged.sent < 1.2 * rows.size(0) < size / 10
        rows.prepare(np.arange(EACH * FILES))
        server.shutdown()
        assert rows.content(EACH * FILES - 1) == encoded(noise(64, 64, 3, seed=EACH * FILES - 1))
    rows._open.clear()
    for file in held():
        file.unlink()
    with pytest.raises(OSError, match="cannot be read"):
        rows.content(0)


def test_damage_is_named_and_the_rest_read(tmp_path, far, monkeypatch):
    from pyarrow import parquet

    monkeypatch.setattr(image_samples, "LOOKED_AT", 0)
    folder = parquet_set(tmp_path / "set")
    first, second, _ = sorted((folder / "data").glob("train-*"))
    place = parquet.ParquetFile(first).metadata.row_group(1).column(1).data_page_offset
    content = bytearray(first.read_bytes())
    content[place : place + 40] = bytes(40)
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:-8])
    monkeypatch.setattr(image_samples, "LOOKED_AT", 4)
    monkeypatch.setattr(GroupRows, "near", lambda self, count, random: np.arange(count))
    samples = images.open(f"hf-stream:{folder}")
    assert [problem.identity for problem in samples.problems] == [str(second)]
    assert len(samples) == 2 * EACH
    for row in range(2 * EACH):
        if GROUP <= row < 2 * GROUP:
            with pytest.raises(BadSample, match=r"row group 1 of .* cannot be read"):
                samples.read(row)
        else:
            assert np.array_equal(samples.read(row), noise(8, 8, 3, seed=row + EACH * (row >= EACH)))


def test_rows_without_a_picture_are_named(tmp_path, far):
    import datasets

    (tmp_path / "set").mkdir()
    content = [{"bytes": encoded(noise(8, 8, 3)), "path": None}, None, {"bytes": None, "path": "/etc/passwd"}]
    features = datasets.Features({"picture": datasets.Image(decode=False)})
    table = datasets.Dataset.from_dict({"picture": content}, features)
    table.to_parquet(tmp_path / "set/train.parquet")
    samples = images.open(f"hf-stream:{tmp_path}/set")
    assert len(samples) == 1
    assert [problem.reason for problem in samples.problems] == ["the row holds no bytes"] * 2


def test_what_cannot_be_streamed_is_one_sentence(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"csv files, which cannot be read at random .* type hf:"):
        images.open(f"hf-stream:{tmp_path}/set")
    with pytest.raises(UserError, match="does not exist"):
        images.open(f"hf-stream:{tmp_path}/sett")
    with pytest.raises(UserError, match="Did you mean 'hf-stream'"):
        images.open("hfstream:some/set")
    with pytest.raises(UserError, match=r"not a kind of table"):
        domains()["table"].open("hf-stream:some/set")
