"""A recurrent language model on `torch.nn.LSTM`: what the decoder is compared with at equal parameters and tokens.

It loads with AutoModelForCausalLM once `register` has been called. It predicts and trains; it does not generate.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutput

FORGET = 1.0  # bias of the forget gates: a fresh cell remembers (Jozefowicz et al. 2015, section 2)


class LSTMConfig(PreTrainedConfig):
    model_type = "evergreen_lstm"

    vocab_size: int = 4096
    hidden_size: int = 128
    num_hidden_layers: int = 4
    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6


class Layer(nn.Module):
    """x + LSTM(norm(x)): without the residual path a stack of four learns several times slower."""

    def __init__(self, config: LSTMConfig):
        super().__init__()
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lstm = nn.LSTM(config.hidden_size, config.hidden_size, batch_first=True)

    def forward(self, x_BTH: torch.Tensor) -> torch.Tensor:
        return x_BTH + self.lstm(self.norm(x_BTH))[0]


class LSTMForCausalLM(PreTrainedModel):
    """Embedding, layers, a last norm, and the tied embedding as head."""

    config_class = LSTMConfig
    base_model_prefix = "model"
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}  # noqa: RUF012 - transformers reads it so
    accepts_loss_kwargs = True

    def __init__(self, config: LSTMConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As transformers does (Glorot for the input weights), orthogonal recurrence in each gate, forget bias 1."""
        super()._init_weights(module)
        if isinstance(module, nn.LSTM):
            for gate in module.weight_hh_l0.chunk(4):
                nn.init.orthogonal_(gate)
            init.constant_(module.bias_ih_l0.chunk(4)[1], FORGET)  # torch orders the gates i, f, g, o

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **loss_options: Any,
    ) -> CausalLMOutput:
        """Logits (B, T, V) and, with labels, the mean loss of predicting each next one; -100 is left out.

        What lies after a row's end changes nothing before it, so `attention_mask` only has to be padded on the right.
        Raises ValueError where it is padded on the left: the state would have read the padding.
        """
        if attention_mask is not None and not bool(attention_mask[:, 0].all()):
            raise ValueError("attention_mask starts with 0: an LSTM reads from the left, so pad on the right")
        x_BTH = self.embed_tokens(input_ids)
        for layer in self.layers:
            x_BTH = layer(x_BTH)
        logits_BTV = self.lm_head(self.norm(x_BTH))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits_BTV, labels, vocab_size=self.config.vocab_size, **loss_options)
        return CausalLMOutput(loss=loss, logits=logits_BTV)


def register() -> None:
    """Lets AutoConfig and AutoModelForCausalLM read a folder that holds this model."""
    AutoConfig.register(LSTMConfig.model_type, LSTMConfig, exist_ok=True)
    AutoModelForCausalLM.register(LSTMConfig, LSTMForCausalLM, exist_ok=True)
