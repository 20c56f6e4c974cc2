"""The architectures that one decoder definition covers, by the name in a model's config.json."""

from __future__ import annotations

SUPPORTED_ARCHITECTURES: tuple[str, ...] = (
    "LlamaForCausalLM",  # Llama 2, 3, 3.1 and later; Yi; SmolLM2
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)


def check_architecture(architecture: str) -> None:
    """Raises ValueError, naming the supported architectures, for any other."""
    if architecture not in SUPPORTED_ARCHITECTURES:
        raise ValueError(
            f"architecture {architecture!r} is not supported; "
            f"supported are {', '.join(SUPPORTED_ARCHITECTURES)}"
        )
