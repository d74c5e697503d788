"""ECG files for the tests: WFDB records by wfdb's own writer, and a minimal EDF writer."""

import numpy as np
import wfdb

TWELVE = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def signals(leads=12, rate=500.0, seconds=10.0, seed=0):
    """(time, leads) in millivolts: beats once a second, larger in each further lead, and a little noise."""
    random = np.random.default_rng(seed)
    times = np.arange(round(rate * seconds)) / rate
    beat = np.exp(-0.5 * (((times + 0.5) % 1 - 0.5) / 0.02) ** 2)
    sizes = 0.5 + 0.1 * np.arange(leads)
    return beat[:, None] * sizes + random.normal(0, 0.01, (len(times), leads))


def write_wfdb(folder, name, values, names, rate=500.0, units="mV", format="16", comments=()):
    folder.mkdir(parents=True, exist_ok=True)
    count = values.shape[1]
    wfdb.wrsamp(
        name, fs=rate, units=[units] * count, sig_name=list(names), p_signal=values,
        fmt=[format] * count, comments=list(comments), write_dir=str(folder),
    )  # fmt: skip
    return folder / f"{name}.hea"


def write_edf(path, values, names, rate=500, unit="mV", largest=5.0):
    """European Data Format (Kemp et al. 1992): a header of fixed fields, then 16-bit records of 1 s."""

    def fields(width, *texts):
        return b"".join(str(text).encode("ascii").ljust(width) for text in texts)

    count, seconds = values.shape[1], len(values) // rate
    head = fields(8, 0) + fields(80, "X X X X", "Startdate 01-JAN-2020 X X X")
    head += fields(8, "01.01.20", "00.00.00", 256 * (count + 1)) + fields(44, "") + fields(8, seconds, 1)
    head += fields(4, count) + fields(16, *names) + fields(80, *[""] * count) + fields(8, *[unit] * count)
    head += fields(8, *[-largest] * count) + fields(8, *[largest] * count)
    head += fields(8, *[-32768] * count) + fields(8, *[32767] * count)
    head += fields(80, *[""] * count) + fields(8, *[rate] * count) + fields(32, *[""] * count)
    numbers = np.rint((values + largest) / (2 * largest) * 65535 - 32768).astype("<i2")
    body = numbers[: seconds * rate].reshape(seconds, rate, count).transpose(0, 2, 1).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + body)
    return path
