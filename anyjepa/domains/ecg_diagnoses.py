"""Diagnoses by their SNOMED CT codes, as the headers of the PhysioNet / CinC Challenge 2021 give them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["in_words"]

# the diagnoses that the Challenge scored
NAMES = {
    "164889003": "atrial fibrillation",
    "164890007": "atrial flutter",
    "6374002": "bundle branch block",
    "426627000": "bradycardia",
    "733534002": "complete left bundle branch block",
    "713427006": "complete right bundle branch block",
    "270492004": "first degree AV block",
    "713426002": "incomplete right bundle branch block",
    "39732003": "left axis deviation",
    "445118002": "left anterior fascicular block",
    "164909002": "left bundle branch block",
    "251146004": "low QRS voltages",
    "698252002": "nonspecific intraventricular conduction disorder",
    "426783006": "sinus rhythm",
    "284470004": "premature atrial contraction",
    "10370003": "pacing rhythm",
    "365413008": "poor R wave progression",
    "427172004": "premature ventricular contractions",
    "164947007": "prolonged PR interval",
    "111975006": "prolonged QT interval",
    "164917005": "Q wave abnormal",
    "47665007": "right axis deviation",
    "59118001": "right bundle branch block",
    "427393009": "sinus arrhythmia",
    "426177001": "sinus bradycardia",
    "427084000": "sinus tachycardia",
    "63593006": "supraventricular premature beats",
    "164934002": "T wave abnormal",
    "59931005": "T wave inversion",
    "17338001": "ventricular premature beats",
}


def in_words(classes: Sequence[str] | None) -> list[str] | None:
    """Classes with the names of known codes in their place: ``427084000`` is ``sinus tachycardia``."""
    return None if classes is None else [NAMES.get(name, name) for name in classes]
