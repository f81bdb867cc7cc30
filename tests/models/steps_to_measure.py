"""Configurations whose peak is measured: families, precisions, optimizers, LoRA, checkpointing."""

from typing import Any

from transformers import AutoConfig

from models.training_step import Step

SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "vocab_size": 2048, "hidden_size": 192, "intermediate_size": 512,
              "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 6, "tie_word_embeddings": True},
    "grouped": {"model_type": "llama", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704,
                "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 2,
                "tie_word_embeddings": False},
    "deep": {"model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 352,
             "num_hidden_layers": 12, "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "vocab_size": 1024, "hidden_size": 192, "intermediate_size": 672,
                "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2},
    "qwen2": {"model_type": "qwen2", "vocab_size": 3000, "hidden_size": 128, "intermediate_size": 448,
              "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "gpt2": {"model_type": "gpt2", "vocab_size": 2048, "n_embd": 192, "n_layer": 4, "n_head": 6, "n_positions": 512},
    "bloom": {"model_type": "bloom", "vocab_size": 2048, "hidden_size": 192, "n_layer": 4, "n_head": 6},
    "neox": {"model_type": "gpt_neox", "vocab_size": 2048, "hidden_size": 192, "intermediate_size": 768,
             "num_hidden_layers": 4, "num_attention_heads": 6},
    "opt": {"model_type": "opt", "vocab_size": 2048, "hidden_size": 192, "ffn_dim": 768, "num_hidden_layers": 4,
            "num_attention_heads": 6, "word_embed_proj_dim": 192},
}  # fmt: skip
BY_FORMULA = ("llama", "grouped", "deep", "mistral", "qwen2")
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"batch": 1, "sequence": 64}),
    ("llama", {"precision": "bf16-autocast"}),
    ("llama", {"precision": "bf16"}),
    ("llama", {"checkpointing": True}),
    ("llama", {"checkpointing": True, "precision": "bf16-autocast", "batch": 8}),
    ("llama", {"lora": 8}),
    ("llama", {"optimizer": "adamw-foreach", "batch": 1, "sequence": 128}),
    ("llama", {"optimizer": "sgd", "accumulated": True}),
    ("llama", {"attention": "eager", "precision": "bf16-autocast"}),
    ("llama", {"attention": "eager"}),
    ("grouped", {}),
    ("grouped", {"precision": "bf16-autocast", "accumulated": True}),
    ("grouped", {"precision": "bf16", "batch": 4}),
    ("grouped", {"lora": 4, "precision": "bf16-autocast"}),
    ("grouped", {"lora": 16, "precision": "bf16", "batch": 4}),
    ("grouped", {"lora": 8, "checkpointing": True, "sequence": 512}),
    ("grouped", {"batch": 1, "sequence": 32}),
    ("grouped", {"optimizer": "muon"}),
    ("deep", {"batch": 4}),
    ("deep", {"checkpointing": True, "batch": 8}),
    ("deep", {"precision": "bf16", "batch": 8, "checkpointing": True}),
    ("deep", {"lora": 8, "batch": 4}),
    ("mistral", {"precision": "bf16-autocast"}),
    ("mistral", {"lora": 8, "precision": "bf16-autocast", "checkpointing": True}),
    ("qwen2", {}),
    ("qwen2", {"precision": "bf16", "checkpointing": True, "batch": 6}),
    ("gpt2", {}),
    ("gpt2", {"precision": "bf16-autocast", "checkpointing": True}),
    ("gpt2", {"lora": 8}),
    ("bloom", {}),
    ("bloom", {"precision": "bf16-autocast", "checkpointing": True}),
    ("bloom", {"lora": 4}),
    ("neox", {"precision": "bf16-autocast"}),
    ("opt", {}),
    ("llama", {"documents": True, "attention": "eager", "precision": "bf16-autocast"}),
]


def config_of(family: str) -> Any:
    return AutoConfig.for_model(**SPECIAL, **FAMILIES[family])


def step_of(options: dict[str, Any]) -> Step:
    return Step(**{"batch": 2, "sequence": 256, **options})


def name_of(case: tuple[str, dict[str, Any]]) -> str:
    return "-".join([case[0], *(f"{name}={value}" for name, value in case[1].items())])
