"""The canary: a few tokens through a model before it is scored, so that a broken merge fails early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from evomerge.errors import CandidateError, ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from evomerge.evaluators.declaration import Declaration
    from evomerge.evaluators.evaluator import Subject

PROMPT = "The capital of France is"
NO_CHAT = "leave it out, or give the model whose tokenizer is used a chat_template.jinja that can"
TOKENS = 64
"""Longest probe: enough to see every layer at work, short enough to cost nothing."""


def must_write(subject: Subject, declaration: Declaration, encoder: bool = False) -> None:
    """See that a model writes text, so that a text has a likelihood; with `encoder` after one it has read.

    A model that fills masks sees the tokens it is asked for: what it says of them is no likelihood.

    Raises:
        ConfigError: E154.
    """
    model = subject.model
    if not model.can_generate() or (model.config.is_encoder_decoder and not encoder):
        wrong = f"`{declaration.kind}` needs a model that writes text"
        if not encoder:
            wrong += " and has no encoder"
        todo = "for classifiers there are `text_classification` and `image_classification`"
        raise ConfigError(declaration.fault("kind", "E154", wrong, type(model).__name__, todo))


def must_chat(subject: Subject, declaration: Declaration, system: str | None = None) -> None:
    """See that a tokenizer writes a chat, with what its `system` says before the prompt.

    Raises:
        ConfigError: E154, it has no chat template, or one that refuses such turns.
    """
    tokenizer: Any = subject.tokenizer
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": PROMPT})
    try:
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        # No template is a ValueError; what a template itself refuses is an error of jinja's.
        found = str(error).partition("!")[0] or type(error).__name__
        field = "system_instruction" if system else "apply_chat_template"
        wrong = "the tokenizer cannot write these prompts as a chat"
        raise ConfigError(declaration.fault(field, "E154", wrong, found, NO_CHAT)) from error


@torch.inference_mode()
def check_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probes: Sequence[Sequence[int]]
) -> None:
    """Run a fixed prompt and the first tokens of `probes` (token ids) and look at every logit.

    Raises:
        CandidateError: `nonfinite_logits`, if any logit is NaN or infinite.
    """
    rows = [list(row)[:TOKENS] for row in (tokenizer.encode(PROMPT), *probes) if len(row)]
    if model.config.is_encoder_decoder or not rows:
        return
    width = max(map(len, rows))
    # Right padding needs no mask: a causal model never looks ahead.
    padded = torch.tensor([row + [row[-1]] * (width - len(row)) for row in rows], device=model.device)
    if not bool(model(input_ids=padded, use_cache=False).logits.isfinite().all()):
        raise CandidateError("nonfinite_logits", "the model's logits are not finite numbers")


def refuse_nan(answers: Sequence[Sequence[Any]]) -> None:
    """An arg-max over NaN is an answer like any other; it must not become a score.

    Raises:
        CandidateError: `nonfinite_logits`, if a reply is, or begins with, NaN.
    """
    for replies in answers:
        for reply in replies:
            number = reply[0] if isinstance(reply, tuple) else reply
            if isinstance(number, float) and number != number:
                raise CandidateError("nonfinite_logits", "a log-likelihood is not a number")
