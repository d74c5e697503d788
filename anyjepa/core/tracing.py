"""Whether a call is computed, or written down as a graph that another program will run."""

from __future__ import annotations

import torch


def exporting() -> bool:
    """True inside ``torch.export``, and so while ONNX is written."""
    # torch before 2.7 tells it from torch.compile by nothing public
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def traced() -> bool:
    """True inside ``torch.export`` and ``torch.jit.trace``.

    What is faster for one size of a batch, such as going through it in pieces, must then be left out: the
    graph would hold that size.
    """
    return exporting() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
