"""S-JEPA's three heads: learned mixtures of electrodes, before, after or without the transformer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anyjepa.core.errors import UserError
from anyjepa.core.transformer import Encoder
from anyjepa.domains.eeg_tokens import scaled

__all__ = ["HEADS", "ElectrodeHead", "downstream_head"]

HEADS = ("contextual", "post-local", "pre-local")
VIRTUAL = 4  # mixtures of electrodes


class ElectrodeHead(nn.Module):
    """A linear classifier of V mixtures of electrodes ("virtual channels"; paper, note "Three heads").

    ``contextual`` mixes the encoder's tokens, ``post-local`` those of its tokenizer alone, ``pre-local`` the
    signals themselves, which the tokenizer then takes for V channels. Mixtures are learned for the electrodes
    of one montage, in their order. Tokens are standardised by what they were at the start, so that heads of
    trained and untrained encoders learn alike.

    Args:
        kind: one of `HEADS`.
        encoder: its tokenizer and, for ``contextual``, its transformer are used, and trained with the head
            unless they are frozen.
        batch: windows like those to come.
        width: outputs.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, kind: str, encoder: Encoder, batch: dict[str, Tensor], width: int) -> None:
        super().__init__()
        if not bool(batch["present"].all()):
            raise UserError(
                f"--probe {kind} mixes electrodes, so that all windows must have the same ones: choose them "
                "with --channels."
            )
        self.kind, self.encoder = kind, encoder
        channels = batch["present"].shape[1]
        self.mix = nn.Linear(channels, VIRTUAL, bias=False)
        with torch.no_grad():
            found = self._tokens(batch)
            features = found.shape[-1]
            shape = (0, 1, 2)
            self.register_buffer("mean", found.mean(shape))
            self.register_buffer("std", found.std(shape).clamp(min=1e-6))
        self.out = nn.Linear(VIRTUAL * found.shape[2] * features, width)

    def _tokens(self, batch: dict[str, Tensor]) -> Float[Tensor, "batch channels times width"]:
        """Tokens of all electrodes, or of the virtual ones."""
        channels = batch["present"].shape[1]
        if self.kind == "contextual":
            return self.encoder(batch).values.unflatten(1, (channels, -1))
        if self.kind == "pre-local":
            signals = scaled(batch, self.encoder.tokenizer.scaling)  # type: ignore[arg-type]
            mixed = self.mix(signals.mT).mT
            there = torch.ones_like(mixed[:, :, 0], dtype=torch.bool)
            virtual = {"eeg": mixed * 1e-6, "positions": torch.zeros_like(mixed[:, :, :3]), "present": there}
            return self.encoder.tokenizer(virtual, None).values.unflatten(1, (VIRTUAL, -1))
        return self.encoder.tokenizer(batch, None).values.unflatten(1, (channels, -1))

    def forward(self, batch: dict[str, Tensor]) -> Float[Tensor, "batch width"]:
        """Outputs."""
        tokens = (self._tokens(batch) - self.mean) / self.std
        if self.kind != "pre-local":
            tokens = torch.einsum("bctd,vc->bvtd", tokens, self.mix.weight)
        return self.out(tokens.flatten(1))


def downstream_head(kind: str, encoder: nn.Module, batch: dict[str, Tensor], width: int) -> ElectrodeHead:
    """The head of a kind, for windows such as these."""
    assert isinstance(encoder, Encoder)
    return ElectrodeHead(kind, encoder, batch, width)
