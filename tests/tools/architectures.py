"""Tiny random models of every architecture that the tests know, saved as ordinary folders."""

import dataclasses

import torch
import transformers

L, D, CONTEXT = 3, 16, 64
SMALL = {  # by the names that configs have for them
    "vocab_size": 320, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
    "hidden_size": D, "n_embd": D, "d_model": D, "dim": D, "embedding_size": D, "word_embed_proj_dim": 8,
    "num_hidden_layers": L, "num_layers": L, "n_layer": L, "n_layers": L, "decoder_layers": L, "encoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "decoder_attention_heads": 4, "encoder_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "rotary_dim": 4, "intermediate_size": 32, "ffn_dim": 32, "d_ff": 32,
    "hidden_dim": 32, "decoder_ffn_dim": 32, "encoder_ffn_dim": 32, "max_position_embeddings": CONTEXT,
    "n_positions": CONTEXT, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}  # fmt: skip
CAUSAL = """bart biogpt bloom cohere falcon gemma gemma2 gemma3_text glm4 gpt2 gpt_bigcode gpt_neox gptj granite llama
    mamba mistral mixtral mpt olmo olmo2 olmoe opt phi phi3 qwen2 qwen2_moe qwen3 smollm3 stablelm starcoder2
    xglm""".split()


MASKED = """bert camembert deberta-v2 distilbert electra esm megatron-bert modernbert mpnet rembert
    roberta""".split()


GEMMA4 = {  # with inputs of each block beside the states
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 320, "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
KINDS = [*((kind, False) for kind in CAUSAL), *((kind, True) for kind in MASKED)]


def make(kind, masked, folder, **changes):
    """A random model of an architecture, saved as a folder."""
    cls = transformers.models.auto.configuration_auto.CONFIG_MAPPING[kind]
    names, other = {f.name for f in dataclasses.fields(cls)}, getattr(cls, "attribute_map", {})
    torch.manual_seed(0)
    auto = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    small = {key: value for key, value in SMALL.items() if key in names and key not in other}
    net = auto.from_config(cls(**small | changes))
    net.save_pretrained(folder)
    return str(folder)


def half(kind, folder):
    """A random model whose checkpoint is in bfloat16."""
    make(kind, kind in MASKED, folder)
    auto = transformers.AutoModelForMaskedLM if kind in MASKED else transformers.AutoModelForCausalLM
    auto.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    return str(folder)
