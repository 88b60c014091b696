"""The packed scorer against each request alone in a row, over many architectures."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

from evomerge.evaluators import packed
from evomerge.evaluators.packed import Request, answer, grow, pack
from evomerge.evaluators.packing import alone, choose_layout
from tests.evaluators.conftest import build_llama, lively

VOCABULARY = 61
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA_LIKE = {**COMMON, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}

some_tokens = st.lists(st.integers(3, 8), min_size=1, max_size=6).map(tuple)
requests = st.lists(st.builds(Request, some_tokens, some_tokens), min_size=1, max_size=5)


def four_choices(seed: int, items: int, context: int = 12) -> list[list[Request]]:
    rng = np.random.default_rng(seed)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(3, VOCABULARY, count).tolist())

    made = []
    for _ in range(items):
        shared = draw(int(rng.integers(1, context + 1)))
        made.append([Request(shared, draw(int(rng.integers(1, 6)))) for _ in range(4)])
    return made


def flat(items: list[list[Request]]) -> list[Request]:
    return [request for item in items for request in item]


def scored(model: Any, items: list[list[Request]], layout: Any = "tree", **changes: Any) -> np.ndarray:
    arguments = {
        "batch_size": 4,
        "max_length": 128,
        "vocabulary": VOCABULARY,
        "hidden": 32,
        "device": "cpu",
    }
    block = pack(items, layout, **{**arguments, **changes})
    return np.array([each.loglikelihood for each in answer(model, block)])


@pytest.fixture(scope="module")
def llama() -> Any:
    return build_llama(VOCABULARY)


@settings(max_examples=200, deadline=None)
@given(requests, st.integers(6, 14))
def test_every_path_through_the_tree_is_its_request(item: list[Request], max_length: int) -> None:
    tree = grow(item, max_length)
    count = len(tree.tokens)

    def ancestors(node: int) -> list[int]:
        return [above for above in range(node + 1) if above <= node <= tree.last[above]]

    for request, path, targets in zip(item, tree.paths, tree.targets, strict=True):
        whole = (request.context + request.continuation)[-(max_length + 1) :]
        assert targets == request.continuation
        assert len(path) == len(targets)
        chain = ancestors(path[-1])
        assert [tree.tokens[node] for node in chain] == list(whole[:-1])
        assert [tree.depth[node] for node in chain] == list(range(len(chain)))
        assert list(path) == chain[len(chain) - len(path) :]
    prefixes = {
        whole[:length]
        for whole in ((r.context + r.continuation)[-(max_length + 1) :][:-1] for r in item)
        for length in range(1, len(whole) + 1)
    }
    assert count == len(prefixes)


@pytest.mark.parametrize("layout", ["tree", "rows"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_packed_log_likelihoods_are_those_of_each_request_alone(
    llama: Any, layout: Any, batch_size: int
) -> None:
    items = four_choices(0, 9)
    expected = [alone(llama, request, 128) for request in flat(items)]
    found = scored(llama, items, layout, batch_size=batch_size)
    assert found == pytest.approx(expected, abs=1e-4)


def test_choices_that_split_the_context_differently_or_share_nothing(llama: Any) -> None:
    item = [
        Request((5, 6, 7), (8, 9)),
        Request((5, 6), (7, 8, 10)),
        Request((1,), (8, 9)),
        Request((5, 6, 7), (8,)),
    ]
    expected = [alone(llama, request, 128) for request in item]
    assert scored(llama, [item]) == pytest.approx(expected, abs=1e-4)


def test_long_requests_lose_their_first_tokens(llama: Any) -> None:
    items = four_choices(1, 3, context=30)
    expected = [alone(llama, request, 10) for request in flat(items)]
    assert scored(llama, items, max_length=10) == pytest.approx(expected, abs=1e-4)


def test_the_greedy_flag_says_whether_every_token_is_the_most_likely(llama: Any) -> None:
    context = (5, 6, 7)
    with torch.inference_mode():
        best = list(context)
        for _ in range(3):
            best.append(int(llama(torch.tensor([best])).logits[0, -1].argmax()))
    wrong = (best[3], best[4], (best[5] + 1) % VOCABULARY)
    item = [Request(context, tuple(best[3:])), Request(context, wrong)]
    block = pack(
        [item], "tree", batch_size=1, max_length=64, vocabulary=VOCABULARY, hidden=32, device="cpu"
    )
    assert [each.greedy for each in answer(llama, block)] == [True, False]


def test_a_batch_with_too_many_logits_is_split(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    items = four_choices(2, 8)
    whole = scored(llama, items, batch_size=8)
    monkeypatch.setattr(packed, "LOGITS", 20 * VOCABULARY)
    block = pack(
        items, "tree", batch_size=8, max_length=64, vocabulary=VOCABULARY, hidden=32, device="cpu"
    )
    assert len(block.batches) > 1
    assert all(len(batch.cells) <= 20 or len(batch.tokens) == 1 for batch in block.batches)
    found = np.array([each.loglikelihood for each in answer(llama, block)])
    assert found == pytest.approx(whole, abs=1e-4)


def test_a_beginning_that_items_share_is_read_once_a_row(llama: Any) -> None:
    examples = tuple(np.random.default_rng(6).integers(3, VOCABULARY, 60).tolist())
    items = [
        [Request(examples + r.context, r.continuation) for r in item] for item in four_choices(6, 12)
    ]
    block = pack(
        items, "tree", batch_size=12, max_length=400, vocabulary=VOCABULARY, hidden=512, device="cpu"
    )
    (batch,) = block.batches
    assert len(batch.tokens) < 6
    assert batch.tokens.numel() < 0.5 * sum(len(grow(item, 400).tokens) for item in items)
    expected = [alone(llama, request, 400) for request in flat(items)]
    assert [each.loglikelihood for each in answer(llama, block)] == pytest.approx(expected, abs=1e-4)


def test_rows_stay_within_the_model_where_single_items_do(llama: Any) -> None:
    items = four_choices(7, 30)
    longest = max(len(grow(item, 64).tokens) for item in items)
    block = pack(
        items, "tree", batch_size=30, max_length=64, vocabulary=VOCABULARY, hidden=4096, device="cpu"
    )
    assert all(batch.tokens.shape[1] <= max(64, longest) for batch in block.batches)


def test_the_hook_on_the_output_layer_is_gone_afterwards(llama: Any) -> None:
    row = torch.tensor([[5, 6, 7]])
    scored(llama, four_choices(0, 2))
    assert llama(row).logits.shape == (1, 3, VOCABULARY)


CONFIGS = {
    "qwen2": Qwen2Config(**{k: v for k, v in LLAMA_LIKE.items() if k != "head_dim"}),
    "qwen3": Qwen3Config(**LLAMA_LIKE),
    "gemma2": Gemma2Config(**LLAMA_LIKE, sliding_window=64),
    "gemma3": Gemma3TextConfig(**{**LLAMA_LIKE, "num_hidden_layers": 7}, sliding_window=64),
    "gemma3 short window": Gemma3TextConfig(**{**LLAMA_LIKE, "num_hidden_layers": 7}, sliding_window=8),
    "mistral": MistralConfig(**LLAMA_LIKE),
    "mistral short window": MistralConfig(**LLAMA_LIKE, sliding_window=8),
    "mixtral": MixtralConfig(**LLAMA_LIKE, num_local_experts=3),
    "cohere": CohereConfig(**{k: v for k, v in LLAMA_LIKE.items() if k != "head_dim"}),
    "granite": GraniteConfig(
        **{k: v for k, v in LLAMA_LIKE.items() if k != "head_dim"}, logits_scaling=3.0
    ),
    "gpt2": GPT2Config(**COMMON, n_positions=128),
    "gpt_neox": GPTNeoXConfig(**COMMON, intermediate_size=48),
    "opt": OPTConfig(**COMMON, ffn_dim=48, word_embed_proj_dim=32),
    "bloom": BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
    "mpt": MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4, max_seq_len=128),
    "mamba": MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4),
}
TREE = set(CONFIGS) - {"bloom", "mpt", "mamba", "gemma3 short window", "mistral short window"}
"""Kinds that must not lose the fast layout (not so: position biases, short windows, recurrence)."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CONFIGS)
def test_each_architecture_gets_a_layout_with_its_own_numbers(kind: str) -> None:
    model = lively(AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[kind])).float())
    items = four_choices(3, 5, context=24)
    layout = choose_layout(model, items, 128)
    assert layout is not None
    assert layout == ("tree" if kind in TREE else "rows")
    expected = [alone(model, request, 128) for request in flat(items)]
    assert scored(model, items, layout) == pytest.approx(expected, abs=2e-4)


def test_the_choice_depends_on_neither_weights_nor_random_state(llama: Any) -> None:
    items = four_choices(4, 4)
    broken = copy.deepcopy(llama)
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert choose_layout(broken, items, 128) == choose_layout(llama, items, 128) == "tree"
    assert torch.equal(torch.random.get_rng_state(), before)
    assert choose_layout(copy.deepcopy(llama).to(torch.bfloat16), items, 128) == "tree"


def test_a_model_without_output_layer_has_no_layout() -> None:
    body = build_llama(VOCABULARY).model
    assert choose_layout(body, four_choices(5, 2), 128) is None
