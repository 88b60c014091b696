"""Chat templates that go by a name in mergekit's files, written from the formats' public definitions.

transformers renders them with `trim_blocks` and `lstrip_blocks`; no line of theirs depends on either.
"""

from __future__ import annotations

_SYSTEM_APART = (
    "{% if messages and messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
)

TEMPLATES = {
    "alpaca": _SYSTEM_APART + "{% if system %}{{ system | trim + '\\n\\n' }}{% endif %}"
    "{% for turn in turns %}"
    "{% if turn['role'] == 'user' %}{{ '### Instruction:\\n' + turn['content'] | trim + '\\n\\n' }}"
    "{% elif turn['role'] == 'user_context' %}{{ '### Input:\\n' + turn['content'] | trim + '\\n\\n' }}"
    "{% elif turn['role'] == 'assistant' %}{{ '### Response:\\n' + turn['content'] | trim + '\\n\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}",
    "chatml": "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "exaone": _SYSTEM_APART + "{{ '[|system|]' + system + '[|endofturn|]\\n' }}"
    "{% for turn in turns %}{{ '[|' + turn['role'] + '|]' + turn['content'] }}"
    "{{ '\\n' if turn['role'] == 'user' else '[|endofturn|]\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}",
    "llama3": "{{ bos_token }}{% for turn in messages %}"
    "{{ '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ turn['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    "mistral": _SYSTEM_APART + "{{ bos_token }}{% for turn in turns %}"
    "{% if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('after an optional system message, user and assistant must take turns') }}{% endif %}"
    "{% if turn['role'] == 'user' %}"
    "{{ ' [INST] ' + (system + '\\n\\n' if system and loop.first else '') + turn['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + turn['content'] + eos_token }}{% endif %}{% endfor %}",
}
"""Name to Jinja text."""

ODD_AT_MERGEKIT = frozenset({"alpaca", "exaone", "llama3"})
"""Those whose text at mergekit renders with blanks or line breaks that the format does not have."""
