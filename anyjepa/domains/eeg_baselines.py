"""What the field scores an EEG with before it trains a network: band power, CSP, Riemannian geometry."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyjepa.core.errors import require

__all__ = ["BANDS", "band_power", "classical", "on_electrodes"]

BANDS = {
    "delta": (1.0, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, 45.0),
}
MOTOR = (8.0, 30.0)  # Hz that CSP is commonly given
FILTERS = 6
TAPER = 0.1  # share of a window at its ends that is faded where it is filtered


def on_electrodes(
    batch: dict[str, Tensor], places: Float[Tensor, "electrodes 3"]
) -> Float[Tensor, "n electrodes time"]:
    """The signals of a batch at given places, each of the nearest electrode that is there."""
    far = torch.cdist(places.expand(len(batch["positions"]), -1, -1), batch["positions"].float())
    nearest = far.masked_fill(~batch["present"].unsqueeze(1), torch.inf).argmin(-1)
    return batch["eeg"].gather(1, nearest.unsqueeze(-1).expand(-1, -1, batch["eeg"].shape[2]))


def band_power(signals: Float[Tensor, "n channels time"], rate: float) -> Float[Tensor, "n channels bands"]:
    """Natural logarithm of the mean power in each of `BANDS` below half the rate, in square microvolts."""
    points = signals.shape[-1]
    tapered = (
        (signals - signals.mean(-1, keepdim=True)) * 1e6 * torch.hann_window(points, device=signals.device)
    )
    power = torch.fft.rfft(tapered).abs() ** 2 / points
    frequencies = torch.fft.rfftfreq(points, 1 / rate, device=signals.device)
    found = []
    for low, high in BANDS.values():
        inside = (frequencies >= low) & (frequencies < min(high, rate / 2))
        if inside.any():
            found.append(power[..., inside].mean(-1))
    return (torch.stack(found, dim=-1) + 1e-20).log()


def classical(
    train: Float[Tensor, "train channels time"],
    labels: Int[Tensor, " train"],
    test: Float[Tensor, "test channels time"],
    rate: float,
) -> dict[str, np.ndarray]:
    """Labels of the test windows as classical pipelines predict them, by the pipeline's name.

    ``CSP + LDA``: the logarithm of the variance of six common spatial patterns of 8 to 30 Hz, and linear
    discriminants (mne.decoding). ``tangent space``: covariances in each of `BANDS`, in the tangent space at
    their Riemannian mean, and logistic regression (pyRiemann). Both on windows divided by their own scale.
    """
    decoding, riemann = require("mne.decoding", "eeg"), require("pyriemann.estimation", "eeg")
    tangent = require("pyriemann.tangentspace", "eeg")
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    mine, theirs = (_scaled(part) for part in (train, test))
    wanted = labels.cpu().numpy()
    found: dict[str, np.ndarray] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        motor = MOTOR[0], min(MOTOR[1], 0.45 * rate)
        count = min(FILTERS, mine.shape[1])
        csp = decoding.CSP(count, reg="ledoit_wolf", log=True)
        with _quiet():
            patterns = make_pipeline(csp, LinearDiscriminantAnalysis()).fit(_band(mine, rate, *motor), wanted)
            found["CSP + LDA"] = patterns.predict(_band(theirs, rate, *motor))
        sides: list[list[np.ndarray]] = [[], []]
        for low, high in BANDS.values():
            if low >= 0.45 * rate:
                continue
            covariances = [
                riemann.Covariances("oas").transform(_band(part, rate, low, min(high, 0.49 * rate)))
                for part in (mine, theirs)
            ]
            space = tangent.TangentSpace(metric="riemann").fit(covariances[0])
            for side, one in zip(sides, covariances, strict=True):
                side.append(space.transform(one))
        first, second = (np.concatenate(side, axis=1) for side in sides)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(first, wanted)
        found["tangent space"] = model.predict(second)
    return found


def _quiet():
    return require("mne", "eeg").utils.use_log_level("error")


def _scaled(signals: Tensor) -> np.ndarray:
    """Float64, the mean off, divided by the median over channels of their deviations: free of units."""
    values = signals.detach().cpu().double().numpy()
    values = values - values.mean(-1, keepdims=True)
    return values / np.maximum(np.median(values.std(-1), axis=1), 1e-30)[:, None, None]


def _band(values: np.ndarray, rate: float, low: float, high: float) -> np.ndarray:
    """Only these frequencies, by their removal from the spectrum of the faded window."""
    points = values.shape[-1]
    edge = max(1, int(TAPER * points))
    window = np.ones(points)
    window[:edge] = np.sin(np.linspace(0, np.pi / 2, edge)) ** 2
    window[-edge:] = window[:edge][::-1]
    frequencies = np.fft.rfftfreq(points, 1 / rate)
    kept = (frequencies >= low) & (frequencies <= high)
    return np.fft.irfft(np.fft.rfft(values * window) * kept, n=points)
