"""What lies in a folder, file or archive, from names alone; and which kind of data that is."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from anyjepa.core.errors import UserError, nearest
from anyjepa.domains import Domain, Samples, domains
from anyjepa.domains.packs import MANIFEST, packed_domain
from anyjepa.domains.sources import existing
from anyjepa.recipes import recipes, recipes_of

MEMBERS = 20_000  # of an archive that are looked at
ASIDE = (
    "readme",
    "licen",
    "changelog",
    "copying",
    "citation",
    "notice",
)  # beginnings of names that are no data
NO_DATA = frozenset(
    {".md", ".pdf", ".html", ".sha256", ".md5", ".py", ".ipynb", ".yaml", ".yml", ".toml", ""}
)
UNREAD: dict[str, frozenset[str]] = {  # kinds by the endings of their files, for what no domain reads yet
    "sound": frozenset({".wav", ".flac", ".mp3", ".ogg", ".aiff", ".m4a", ".opus"}),
    "EEG or MEG": frozenset({".set", ".fdt", ".fif", ".fif.gz", ".bdf", ".gdf", ".vhdr", ".vmrk", ".eeg"}),
    "volumes (MRI, CT)": frozenset({".nii", ".nii.gz", ".dcm", ".mha", ".mhd", ".nrrd", ".mgz"}),
    "optical flow": frozenset({".flo", ".pfm"}),
    "portable pixmaps (images: convert them to PNG)": frozenset({".ppm", ".pgm", ".pbm"}),
    "interactions of users with items": frozenset({".inter", ".item", ".user"}),
    "traces in JSON": frozenset({".json", ".jsonl", ".json.gz"}),
    "MATLAB arrays": frozenset({".mat"}),
    "arrays without names that any kind of data knows": frozenset({".npz", ".npy", ".h5", ".hdf5"}),
}
LEAST = 0.2  # a fit below this is chance: most files are damaged, or of another kind
MIXED = 0.3  # a second kind of data that fits so well beside the best is named
LARGEST_PART = 0.5  # of the files must be of the kind of data, unless nothing else is there


@dataclass(frozen=True)
class Survey:
    """Names of what a source holds.

    Args:
        path: of the folder or file; None for a source that is none (``digits``, ``hf:NAME``).
        endings: how many data files have each ending, members of tar archives among them.
        archives: paths of the tar archives.
        robot: whether it is laid out as LeRobot lays out robot trajectories.
        cut: whether more members of archives were left uncounted.
    """

    path: Path | None
    endings: Counter[str] = field(default_factory=Counter)
    archives: tuple[str, ...] = ()
    robot: bool = False
    cut: bool = False

    def of(self, domain: Domain) -> float:
        """Share of the data files whose ending is of this kind of data; 1 where there is nothing to go by."""
        total = self.endings.total() if domain.endings else 0
        return sum(self.endings[ending] for ending in domain.endings) / total if total else 1.0

    def unread(self) -> list[tuple[str, int]]:
        """Kinds of data that no domain reads, and how many files of each, most first."""
        known = {ending for domain in domains().values() for ending in domain.endings} - UNREAD_ANYWAY
        counts = [
            (kind, sum(self.endings[ending] for ending in endings if ending not in known))
            for kind, endings in UNREAD.items()
        ]
        if self.robot:
            counts.append(("robot trajectories as of LeRobot", self.endings[".parquet"]))
        return sorted([(kind, count) for kind, count in counts if count], key=lambda pair: -pair[1])

    def in_words(self) -> str:
        """The commonest endings with their counts."""
        shown = ", ".join(f"{count:,} {ending}" for ending, count in self.endings.most_common(6))
        more = len(self.endings) - 6
        return f"{shown} and {more} more endings" if more > 0 else shown


UNREAD_ANYWAY = frozenset({".mat", ".npz", ".npy", ".h5", ".hdf5", ".nii", ".nii.gz"})  # by what is in them


@dataclass(frozen=True)
class Candidate:
    """A source opened as one kind of data: how it was typed, and how well that fits (0 to 1).

    recipe: the one that reads it, where the first of its kind does not.
    """

    domain: Domain
    samples: Samples
    source: str
    fits: float
    recipe: str | None = None


@dataclass(frozen=True)
class Found:
    """What fits a source, best first; and why each other kind of data does not."""

    survey: Survey
    candidates: list[Candidate]
    refused: dict[str, str]


def ending(name: str) -> str:
    """Of a file's name, in small letters: ``.png``, ``.nii.gz``, ``-ubyte``; empty where there is none."""
    name = name.lower()
    zipped = ".gz" if name.endswith(".gz") else ""
    inner = name.removesuffix(".gz")
    return ("-ubyte" if inner.endswith("-ubyte") else os.path.splitext(inner)[1]) + zipped


def survey(source: str) -> Survey:
    """Names of all files of a source, listed once; none is opened but the headers of tar archives.

    Raises:
        UserError: the path does not exist, or may not be listed.
    """
    scheme = source.partition(":")[0]
    if scheme in ("hf", "hf-stream", "wds", "sklearn") and not os.path.exists(source):
        return Survey(None)
    if not os.path.exists(Path(source).expanduser()) and _is_name(source):
        return Survey(None)
    beside = Path(f"{source}.hea").expanduser()  # records of WFDB are named without their ending
    path = beside if beside.is_file() else existing(source)
    if path.is_file():
        counts, archives, robot = Counter([ending(path.name)]), [path] if _is_tar(path.name) else [], False
    else:
        counts, archives, robot = _listed(path)
    counts.pop(".tar", None)
    left = MEMBERS
    for archive in archives:
        members = _members(archive, left)
        left -= members.total()
        counts += members
    return Survey(path, counts, tuple(map(str, archives)), robot, left <= 0)


def _is_name(source: str) -> bool:
    """Whether it may be a shipped or simulated name rather than a path."""
    known = {kind.example_data for kind in recipes().values()}
    if source in known or source.startswith("synthetic"):
        return True
    if os.sep in source or "." in source:
        return False
    siblings = [*known, *os.listdir()]
    raise UserError(f"{source} does not exist: give a path or a name that does.{nearest(source, siblings)}")


def _listed(root: Path) -> tuple[Counter[str], list[Path], bool]:
    counts: Counter[str] = Counter()
    archives, robot = [], False
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in names:
            if name.startswith(".") or name.lower().startswith(ASIDE):
                continue
            found = ending(name)
            robot = robot or (name == "info.json" and os.path.basename(folder) == "meta")
            if found == ".tar":
                archives.append(Path(folder, name))
            if found not in NO_DATA:
                counts[found] += 1
    return counts, sorted(archives), robot


def _is_tar(name: str) -> bool:
    return name.lower().endswith(".tar")


def _members(archive: Path, most: int) -> Counter[str]:
    """Endings of the first `most` members; none of a damaged archive, which its domain will name."""
    counts: Counter[str] = Counter()
    try:
        with tarfile.open(archive, "r:") as file:
            for member in file:
                if counts.total() >= most:
                    break
                if member.isfile() and (found := ending(os.path.basename(member.name))) not in NO_DATA:
                    counts[found] += 1
    except (tarfile.TarError, OSError, EOFError):
        pass
    return counts


def readings_of(domain: Domain) -> dict[str, dict]:
    """What recipes of a kind of data ask of reading, by name: the first of those that ask for the same.

    By their smallest presets. Where no recipe is of that kind, nothing is asked, by no name.
    """
    found: dict[frozenset[str], tuple[str, dict]] = {}
    for kind in recipes_of(domain.name):
        asked = kind.preset("tiny").reading()
        found.setdefault(frozenset(asked), (kind.name, asked))
    return dict(found.values()) or {"": {}}


def identify(source: str, kind: str | None = None, labels: str | None = None) -> Found:
    """Open a source as every kind of data whose files are in it.

    Args:
        source: as it was typed.
        kind: the one kind of data to try.
        labels: as of `Domain.open`.

    Raises:
        UserError: there is no such source, or no such kind of data.
    """
    if kind is not None and kind not in domains():
        known = ", ".join(domains())
        raise UserError(f"there is no kind of data '{kind}' (there are {known}).{nearest(kind, domains())}")
    if os.path.isfile(Path(source).expanduser() / MANIFEST):
        kind, source = kind or packed_domain(str(Path(source).expanduser())), f"wds:{source}"
    seen, candidates, refused = survey(source), [], {}
    tried = [source, *([f"wds:{source}"] if seen.archives else [])]
    for domain in domains().values():
        if kind not in (None, domain.name):
            continue
        if seen.path is not None and domain.endings and not seen.of(domain):
            refused[domain.name] = "no file has an ending of it"
            continue
        for typed in tried:
            try:
                samples, recipe = _opened(domain, typed, labels)
            except UserError as mistake:
                refused.setdefault(domain.name, str(mistake))
                continue
            if not len(samples):
                refused[domain.name] = "none of its samples can be read"
                continue
            candidates.append(_candidate(domain, samples, typed, seen, recipe))
            break
    candidates.sort(key=lambda candidate: -candidate.fits)
    if kind is None:
        candidates = _sensible(candidates, seen, refused)
    return Found(seen, candidates, refused)


def _opened(domain: Domain, typed: str, labels: str | None) -> tuple[Samples, str | None]:
    """Samples, and the recipe that reads them if the first of its kind does not. Raises the first error."""
    first: UserError | None = None
    for name, reading in readings_of(domain).items():
        try:
            return domain.open(typed, labels, reading=reading), name if first else None
        except UserError as mistake:
            first = first or mistake
    assert first is not None
    raise first


def _candidate(domain: Domain, samples: Samples, typed: str, seen: Survey, recipe: str | None) -> Candidate:
    total = len(samples) + len(samples.problems)
    whole = len(samples) / total
    return Candidate(domain, samples, typed, seen.of(domain) * domain.likeness(samples) * whole, recipe)


def _sensible(candidates: list[Candidate], seen: Survey, refused: dict[str, str]) -> list[Candidate]:
    """Without what reads but a few files beside those of a kind of data that nothing here reads."""
    if not candidates or seen.path is None:
        return candidates
    kept, others = [], seen.unread() or [("", 0)]
    for candidate in candidates:
        share, samples = seen.of(candidate.domain), candidate.samples
        if candidate.fits < LEAST and len(samples.problems) > len(samples):
            total = len(samples) + len(samples.problems)
            refused[candidate.domain.name] = (
                f"{len(samples.problems):,} of {total:,} samples are damaged as such, the first being "
                f"{samples.problems[0]}"
            )
        elif share < LARGEST_PART and others[0][1] > share * seen.endings.total():
            refused[candidate.domain.name] = (
                f"only {seen.endings.total() * share:.0f} of {seen.endings.total():,} files can be of it"
            )
        elif seen.robot and candidate.domain.name not in others[0][0] and ".parquet" in seen.endings:
            refused[candidate.domain.name] = "frames of a trajectory belong together, and it would mix them"
        else:
            kept.append(candidate)
    return kept


def also(found: Found) -> list[Candidate]:
    """Other kinds of data that fit nearly as well as the best."""
    if not found.candidates:
        return []
    return [one for one in found.candidates[1:] if one.fits >= MIXED * found.candidates[0].fits]
