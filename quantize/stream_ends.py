"""The two ends of the residual stream: the embedding, and the final norm with lm_head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.recipe import Recipe
from qoq.quantize.sources.model_source import ModelSource
from qoq.quantize.transforms.norm_folding import fold_final_norm
from qoq.quantize.transforms.rotation import Rotation

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class StreamEnds:
    """Reads and transforms them when asked, fp32, so that nobody holds both ends of a large
    vocabulary. Raises ModelSourceError for NaN and infinity.
    """

    model: ModelSource
    recipe: Recipe

    @property
    def has_own_head(self) -> bool:
        """A folded norm parts a tied head from the embedding."""
        return HEAD in self.model.names or self.recipe.fold_norms

    def embedding(self) -> Tensor:
        """[V, hidden]."""
        return self._rotate(self._load(EMBEDDING))

    def final_gain(self) -> Tensor:
        """[hidden]."""
        gain = self._load(FINAL_NORM)
        return torch.ones_like(gain) if self.recipe.fold_norms else gain

    def head(self) -> Tensor:
        """[V, hidden]; of a tied model, made from the embedding."""
        head = self._load(HEAD if HEAD in self.model.names else EMBEDDING)
        if self.recipe.fold_norms:
            head = fold_final_norm(head, self._load(FINAL_NORM))
        return self._rotate(head)

    def _rotate(self, rows: Tensor) -> Tensor:
        if not self.recipe.rotate:
            return rows
        return Rotation.for_size(rows.shape[-1]).rotate_inputs(rows)

    def _load(self, name: str) -> Tensor:
        tensor = self.model.load(name).float()
        if not torch.isfinite(tensor).all():
            raise ModelSourceError(f"tensor {name} holds NaN or infinite values")
        return tensor
