"""The embedded models: Llamas of about 0.2 M parameters over the 58 words of `curate.arithmetic`.

They are ordinary Hugging Face folders: `AutoModelForCausalLM.from_pretrained(folder)` opens them, and
their fast tokenizer splits on white space, so that one word is one token.
"""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from curate.arithmetic import VOCABULARY

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %} {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %} {{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} <think>{% endif %}"
)
WORD_IDS = {word: index for index, word in enumerate(VOCABULARY)}
PAD, BOS, EOS, THINK = (WORD_IDS[word] for word in ("<pad>", "<bos>", "<eos>", "<think>"))
MAX_POSITIONS = 512


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word. There is no unknown token: a foreign word is refused, never replaced."""
    words = Tokenizer(models.WordLevel(WORD_IDS))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=MAX_POSITIONS,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def model(*, layers: int, hidden: int, seed: int) -> LlamaForCausalLM:
    """A Llama with fresh weights: heads of 16 dimensions, two query heads to a key head, untied embeddings."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 16,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=MAX_POSITIONS,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    torch.manual_seed(seed)
    llama = LlamaForCausalLM(config)
    _initialise(llama, layers)
    return llama


@torch.no_grad()
def _initialise(llama: LlamaForCausalLM, layers: int) -> None:
    """Embeddings N(0, 1), head 0.02, fan-in elsewhere, residual outputs divided by sqrt(2 layers).

    A tied embedding, or one at 0.02, drowns in the residual stream under fan-in initialisation.
    """
    for name, weight in llama.named_parameters():
        if weight.ndim < 2:
            continue
        if "embed_tokens" in name:
            std = 1.0
        elif "lm_head" in name:
            std = 0.02
        else:
            std = weight.shape[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= (2 * layers) ** 0.5
        weight.normal_(0.0, std)
