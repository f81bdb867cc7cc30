"""The head of a reward model, for the family too that transformers has none for."""

from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification, CohereConfig
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.cohere.modeling_cohere import CoherePreTrainedModel


class CohereForSequenceClassification(GenericForSequenceClassification, CoherePreTrainedModel):
    """A PaLM-style decoder whose last token gives the scores."""


def load(folder: Path) -> Any:
    """A model folder with one output for each conversation, of a reward model or of one that is to become it."""
    AutoModelForSequenceClassification.register(CohereConfig, CohereForSequenceClassification, exist_ok=True)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, attn_implementation="eager")
