"""Every causal language model of transformers: the same numbers as its own attention, or an error
that names the class."""

import inspect

import pytest
import tiny_models
import torch
import transformers

import tokensieve
import tokensieve.hf
from tokensieve import SelectConfig

IDS = torch.randint(3, 200, (2, 40), generator=torch.Generator().manual_seed(0))
PADDING = torch.ones_like(IDS)
PADDING[0, :9] = 0
# Parts of a pair, which run on another model's keys; one needs pillow.
NOT_ALONE = {"Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM",
             "Gemma3nForConditionalGeneration"}
REFUSED = {
    "computes its attention itself": """BigBirdForCausalLM BloomForCausalLM
        CodeGenForCausalLM CpmAntForCausalLM FalconForCausalLM GPTJForCausalLM GPTNeoForCausalLM
        GPTNeoXJapaneseForCausalLM MegatronBertForCausalLM MptForCausalLM MvpForCausalLM
        OpenAIGPTLMHeadModel ProphetNetForCausalLM ReformerModelWithLMHead RemBertForCausalLM
        RoFormerForCausalLM RwkvForCausalLM TrOCRForCausalLM XGLMForCausalLM XLMWithLMHeadModel
        XLNetLMHeadModel""".split(),
    "has eager attention only": """BigBirdPegasusForCausalLM DeepseekV4ForCausalLM GitForCausalLM
        HYV4ForCausalLM Inkling2ForCausalLM""".split()}
WHY = {name: why for why, names in REFUSED.items() for name in names}


@torch.no_grad()
def logits(model):
    """Alone, with padding, and of the newest tokens only, where a model can do that."""
    real = PADDING.bool()
    outs = {"plain": model(IDS, use_cache=False).logits}
    padded = model(IDS, attention_mask=PADDING, use_cache=False).logits
    outs["padded"] = padded[real] if padded.shape[:2] == real.shape else padded
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        for name, more in (("newest", {}), ("newest, padded", dict(attention_mask=PADDING))):
            outs[name] = model(IDS, use_cache=False, logits_to_keep=5, **more).logits
    return outs


def the_model_s_own(name):
    cls = getattr(transformers, name)
    return tiny_models.make(name, "sdpa" if cls._supports_sdpa else "eager")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(tiny_models.CLASSES) - NOT_ALONE))
def test_equals_the_model_s_own_attention_or_says_why_not(name):
    if name in WHY:
        with pytest.raises(tokensieve.UnsupportedError, match=f"{name} {WHY[name]}.*eager"):
            tiny_models.make(name, "tokensieve")
        return
    expected, model = logits(the_model_s_own(name)), tiny_models.make(name, "tokensieve")
    with tokensieve.dense():
        check(logits(model), expected)
    tokensieve.hf.configure(model, select=SelectConfig(enabled=False), min_tokens=1)
    check(logits(model), expected)
    tokensieve.hf.stats(model)


def check(outs, expected):
    for what, out in outs.items():
        assert out.isfinite().all()
        torch.testing.assert_close(out, expected[what], atol=1e-4, rtol=1e-4,
                                   msg=lambda text: f"{what}: {text}")
