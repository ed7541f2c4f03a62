"""Every causal language model of the installed transformers, with tiny random weights."""

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

CLASSES = sorted({name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
                  if hasattr(transformers, name)})
_LAYERS = 4
# Fields of configurations, nested ones too: those of a line get its value.
_FIELDS = {name: value for value, names in {
    64: "hidden_size d_model n_embd emb_dim dim_model embedding_size embedding_dim lru_width "
        "backbone_hidden_size word_embed_proj_dim hidden_size_global attention_hidden_size",
    96: "intermediate_size ffn_dim dim_ff dff n_inner d_inner ffn_hidden_size decoder_ffn_dim "
        "encoder_ffn_dim feed_forward_size intermediate_size_mlp expert_ffn_hidden_size "
        "dense_intermediate_size shared_intermediate_size",
    32: "moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size "
        "shared_experts_intermediate_size qk_nope_head_dim v_head_dim q_lora_rank index_head_dim "
        "linear_key_head_dim linear_value_head_dim linear_head_dim swa_v_head_dim state_size "
        "mamba_d_state ssm_state_size index_topk",
    16: "head_dim dim_head d_kv d_head attention_head_size attention_head_dim global_head_dim "
        "swa_head_dim kv_channels rotary_dim kv_lora_rank qk_rope_head_dim mamba_head_dim "
        "mamba_headdim o_lora_rank hidden_size_per_layer_input adapter_rank hc_lowrank",
    _LAYERS: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers "
             "num_decoder_layers num_encoder_layers num_attention_heads n_head n_heads num_heads "
             "decoder_attention_heads encoder_attention_heads num_decoder_attention_heads "
             "num_encoder_attention_heads attention_heads num_key_value_heads num_kv_heads "
             "kv_n_heads swa_num_attention_heads swa_num_key_value_heads linear_num_key_heads "
             "linear_num_value_heads linear_num_heads index_n_heads n_mamba_heads mamba_num_heads "
             "n_routed_experts num_experts num_local_experts moe_num_experts num_blocks "
             "num_query_groups zero_expert_num depth",
    2: "num_experts_per_tok num_experts_per_token moe_topk moe_top_k moe_k index_topk_blocks "
       "attn_layer_period num_layers_per_stack",
    1: "n_group topk_group num_expert_group n_groups n_shared_experts num_shared_experts "
       "num_dense_layers first_k_dense_replace attn_layer_offset index_local_blocks",
    8: "index_block_size",
    200: "vocab_size vocab_size_per_layer_input decoder_vocab_size encoder_hash_byte_group_vocab "
         "pronunciation_vocab_size shape_vocab_size ngram_vocab_size_base",
    512: "sliding_window attention_chunk_size max_position_embeddings n_positions n_ctx "
         "max_seq_len max_target_positions",
}.items() for name in names.split()} | dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)

# By type: what the above does not tell.
_SLIDING = dict(layer_types=["sliding_attention", "full_attention"] * 2)
_HYBRID = dict(layer_types=["linear_attention", "full_attention"] * 2)
_MAMBA2 = dict(mamba_n_heads=8, mamba_d_head=16)
_ZAMBA = dict(attention_hidden_size=128, attention_head_dim=32,
              layers_block_type=["linear_attention", "hybrid"] * 2)
_TYPES = dict(
    bamba=_MAMBA2 | dict(attn_layer_indices=[1, 3]),
    cohere_compass_text=dict(rope_parameters={
        kind: dict(rope_type="default", rope_theta=1e4) for kind in set(_SLIDING["layer_types"])}),
    dbrx=dict(attn_config=dict(kv_n_heads=2, rope_theta=1e4, clip_qkv=8.0)),
    deepseek_v2=dict(num_experts_per_tok=2),
    dots1=dict(n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1),
    falcon_h1=_MAMBA2 | dict(mamba_d_ssm=128),
    gemma3n_text=dict(num_kv_shared_layers=2) | _SLIDING,
    gemma4_text=dict(num_kv_shared_layers=2) | _SLIDING, gemma4_unified_text=_SLIDING,
    granitemoehybrid=_MAMBA2 | _HYBRID, hrm_text=dict(num_hidden_layers=16),
    hunyuan_v1_dense=dict(head_dim=16), hunyuan_v1_moe=dict(head_dim=16),
    lfm2_moe=dict(layer_types=["conv", "full_attention"] * 2), longcat_flash=dict(qk_head_dim=48),
    mamba2=dict(num_heads=8, head_dim=16), mimo_v2_flash=dict(num_key_value_heads=2),
    minimax_m3_vl_text=dict(layer_types=["full_attention", "minimax_m3_sparse"] * 2),
    ministral=dict(head_dim=16), musicgen_decoder=dict(num_codebooks=1),
    musicgen_melody_decoder=dict(num_codebooks=1), nemotron=dict(num_key_value_heads=2),
    qwen4_exp_text=dict(indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=16,
                        indexer_budget=32, indexer_compress_ratio=4),
    reformer=dict(is_decoder=True, axial_pos_embds=False), xlstm=dict(qk_dim_factor=1.0),
    xmod=dict(default_language="en_XX"), zamba=_ZAMBA,
    zamba2=_ZAMBA | dict(mamba_headdim=32, hybrid_layer_ids=[1, 3]),
    zaya=dict(num_experts_per_tok=1),
)


def _some(kinds):
    """As many as there are layers, of every kind."""
    first = [i for i, kind in enumerate(kinds) if kind not in kinds[:i]]
    rest = [i for i in range(len(kinds)) if i not in first]
    return [kinds[i] for i in sorted((first + rest)[:_LAYERS])]


def _shrink(values):
    result = {}
    for name, value in values.items():
        if name in ("per_layer_config", "id2label", "label2id", "transformers_version"):
            continue
        if isinstance(value, dict):
            value = _shrink(value)
        elif name in _FIELDS and type(value) is int:
            value = _FIELDS[name]
        elif type(value) is float and name.endswith(("dropout", "pdrop", "_prob")):
            value = 0.0
        elif name == "intermediate_size":  # of every layer
            value = _FIELDS[name]
        elif isinstance(value, list) and len(value) > _LAYERS and (
                "layer" in name or name == "activation_sparsity_pattern"):
            value = _some(value)
        result[name] = value
    return result


def config_of(name):
    """The configuration of a class of CLASSES."""
    cls = getattr(transformers, name).config_class
    return cls.from_dict(_shrink(cls().to_dict()) | _TYPES.get(cls.model_type, {}))


def make(name, implementation):
    torch.manual_seed(1)
    config = config_of(name)
    return getattr(transformers, name)._from_config(
        config, attn_implementation=implementation).eval()
