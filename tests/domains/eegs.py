"""EEG files for the tests, written by hand or by MNE."""

import numpy as np

NAMES = ["Fz", "C3", "Cz", "C4", "Pz", "Oz"]


def waves(names=tuple(NAMES), rate=128.0, seconds=20.0, seed=0):
    """(channels, time) volts: a rhythm of 10 Hz that grows towards the last channel, in noise."""
    random = np.random.default_rng(seed)
    times = np.arange(round(rate * seconds)) / rate
    sizes = 5e-6 * (1 + np.arange(len(names)))
    return sizes[:, None] * np.sin(2 * np.pi * 10 * times) + random.normal(0, 2e-6, (len(names), len(times)))


def raw_of(volts, names=tuple(NAMES), rate=128.0, marks=(), kinds="eeg"):
    """An MNE recording; marks are (onset, seconds, what)."""
    import mne

    info = mne.create_info(list(names), rate, kinds, verbose="error")
    raw = mne.io.RawArray(volts, info, verbose="error")
    if marks:
        onsets, lengths, whats = zip(*marks, strict=True)
        raw.set_annotations(mne.Annotations(onsets, lengths, whats))
    return raw


def write_fif(path, volts, names=tuple(NAMES), rate=128.0, marks=(), placed=True):
    """A FIF file, gzipped where it is called so; its electrodes placed by name."""
    raw = raw_of(volts, names, rate, marks)
    if placed:
        raw.set_montage("spherical_1005" if _spherical() else "standard_1005", verbose="error")
    path.parent.mkdir(parents=True, exist_ok=True)
    raw.save(path, overwrite=True, verbose="error")
    return path


def _spherical():
    import mne

    return "spherical_1005" in mne.channels.get_builtin_montages()


def write_brainvision(path, volts, names=tuple(NAMES), rate=128.0, marks=()):
    """The three files of BrainVision: 16-bit numbers of 0.1 microvolts."""
    stem = path.with_suffix("").name
    numbers = np.rint(volts / 1e-7).astype("<i2")
    channels = "\n".join(f"Ch{number}={name},,0.1,µV" for number, name in enumerate(names, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={stem}.eeg\nMarkerFile={stem}.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(names)}\nSamplingInterval={1e6 / rate:g}\n\n"
        "[Binary Infos]\nBinaryFormat=INT_16\n\n"
        f"[Channel Infos]\n{channels}\n",
        encoding="utf-8",
    )
    lines = [
        f"Mk{number}=Stimulus,{what},{round(onset * rate) + 1},1,0"
        for number, (onset, _, what) in enumerate(marks, 1)
    ]
    path.with_suffix(".vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={stem}.eeg\n\n[Marker Infos]\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )
    path.with_suffix(".eeg").write_bytes(numbers.T.tobytes())
    return path


def write_edf(path, volts, names=tuple(NAMES), rate=128, bits=16, largest=500.0):
    """EDF, or BDF with 24 bits, in microvolts: a header of fixed fields, then records of a second."""

    def fields(width, *texts):
        return b"".join(str(text).encode("ascii").ljust(width) for text in texts)

    count, seconds = len(names), volts.shape[1] // rate
    head = fields(8, 0) if bits == 16 else b"\xffBIOSEMI"
    head += fields(80, "X X X X", "Startdate 01-JAN-2020 X X X")
    head += fields(8, "01.01.20", "00.00.00", 256 * (count + 1)) + fields(44, "" if bits == 16 else "24BIT")
    head += fields(8, seconds, 1) + fields(4, count) + fields(16, *names) + fields(80, *[""] * count)
    head += fields(8, *["uV"] * count) + fields(8, *[-largest] * count) + fields(8, *[largest] * count)
    top = 2 ** (bits - 1)
    head += fields(8, *[-top] * count) + fields(8, *[top - 1] * count)
    head += fields(80, *[""] * count) + fields(8, *[rate] * count) + fields(32, *[""] * count)
    scaled = np.rint((volts * 1e6 + largest) / (2 * largest) * (2 * top - 1) - top).astype("<i4")
    cut = scaled[:, : seconds * rate].reshape(count, seconds, rate).transpose(1, 0, 2)
    body = np.ascontiguousarray(cut).view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + body)
    return path


def write_set(path, volts, names=tuple(NAMES), rate=128.0, marks=(), places=None):
    """An EEGLAB file in one piece; places are metres, which EEGLAB keeps in millimetres, nose along X."""
    from scipy.io import savemat

    locations = np.zeros(len(names), [("labels", "O"), ("X", "O"), ("Y", "O"), ("Z", "O")])
    for row, name in enumerate(names):
        place = (
            [[], [], []]
            if places is None
            else [1e3 * v for v in (places[row][1], -places[row][0], places[row][2])]
        )
        locations[row] = (name, *place)
    events = np.zeros(len(marks), [("type", "O"), ("latency", "O"), ("duration", "O")])
    for row, (onset, seconds, what) in enumerate(marks):
        events[row] = (what, onset * rate + 1, seconds * rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"EEG": {
        "data": (volts * 1e6).astype(np.float32), "srate": rate, "nbchan": len(names), "pnts": volts.shape[1],
        "trials": 1, "xmin": 0.0, "chanlocs": locations, "event": events, "epoch": [], "setname": "made",
        "icawinv": [], "icaweights": [], "icasphere": [],
    }}, appendmat=False)  # fmt: skip
    return path
