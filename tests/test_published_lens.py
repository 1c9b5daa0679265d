"""A published Jacobian lens is read as what it is."""

from pathlib import Path

import pytest
import torch
import transformers
from pipeline import put

from shortcut.__main__ import main as command
from shortcut.files import formats
from shortcut.files.names import Names


def tiny_published(folder):
    """A file of the layout of published Jacobian lenses, for a model of 3 layers and width 8."""
    J = {l: torch.full((8, 8), l + 1.0).half() for l in range(2)}
    return put(folder, "lens_100.pt", {"J": J, "n_prompts": 100, "source_layers": [*J], "d_model": 8})


REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "jlens" / "lens_100.pt"


@pytest.mark.parametrize("is_real", [False, True])
def test_a_published_jacobian_lens_is_read_as_jacobian_later_with_its_layer_l_as_our_l_plus_1(
    is_real, tmp_path, capsys
):
    if is_real and not REAL.exists():
        pytest.skip("the published lens is not here")
    source, L, d = (REAL, 6, 288) if is_real else (tiny_published(tmp_path), 3, 8)
    torch.manual_seed(0)
    config_ = transformers.LlamaConfig(
        vocab_size=64, hidden_size=d, intermediate_size=d, num_hidden_layers=L, num_attention_heads=4,
        num_key_value_heads=4,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config_).save_pretrained(tmp_path / "llama")
    on = ["--model", str(tmp_path / "llama"), "--dataset", "words", "--out", str(tmp_path)]
    command(["import", str(source), "--from", "jlens", *on])
    taken = Names(tmp_path, "llama", "words", map_kind="jacobian-later")
    J = torch.load(source, weights_only=True)["J"]
    assert [*J] == [*range(L - 1)]
    assert formats.load_matrix(taken.matrix(0, L), d).equal(torch.eye(d))
    for l in J:
        assert formats.load_matrix(taken.matrix(l + 1, L), d).equal(J[l].float())
    capsys.readouterr()
