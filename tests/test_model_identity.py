"""Cache keys: whatever changes a model's numbers changes its identity or the environment's key."""

import importlib.util
import os
import shutil
import sys

import pytest
from torch import nn

from conftest import build_model
from innerpo.model import identity
from innerpo.model.cache import content_key
from innerpo.model.forward.outputs import StateRequest
from innerpo.model.identity import environment_key, hash_of_adapter, hash_of_source, hash_of_weights
from innerpo.model.reference import compute_reference


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A saved model whose weights are many enough for the hash of their file to be kept."""
    monkeypatch.setattr(identity, "SMALL_FILE", 1000)
    monkeypatch.setattr(identity, "SETTLED_SECONDS", -1.0)
    build_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def of(folder):
    return hash_of_source(build_model(), str(folder), folder.parent / "cache")


def test_what_was_exported_into_a_folder_is_no_part_of_its_policy(tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors", "directions.safetensors"):
        (tmp_path / name).write_text(name)
    found = hash_of_adapter(tmp_path, tmp_path / "cache")
    (tmp_path / "steering.safetensors").write_text("exported")
    assert hash_of_adapter(tmp_path, tmp_path / "cache") == found
    (tmp_path / "directions.safetensors").write_text("others")
    assert hash_of_adapter(tmp_path, tmp_path / "cache") != found


def test_the_content_counts_not_the_path(folder):
    copied = folder.parent / "copied"
    shutil.copytree(folder, copied)
    assert of(folder) == of(copied)
    model = build_model()
    model.lm_head.weight.data[0, 0] += 1e-3
    model.save_pretrained(copied)
    assert of(folder) != of(copied)


def test_the_hash_of_a_large_file_is_kept(folder, monkeypatch):
    first = of(folder)
    assert list((folder.parent / "cache" / "hashes").iterdir())
    monkeypatch.setattr(identity.hashlib, "file_digest", None)
    assert of(folder) == first


@pytest.mark.parametrize("how", ["in place", "by rename"])
def test_replaced_weights_of_equal_size_and_time(how, folder):
    """As `rsync -t` or `cp -p` replaces them: the modification time is that of the old file."""
    first, path = of(folder), folder / "model.safetensors"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    target = path if how == "in place" else path.with_suffix(".new")
    target.write_bytes(bytes(content))
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    target.replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert of(folder) != first


def test_a_file_changed_just_now_is_hashed_again(folder, monkeypatch):
    """Its times may be as coarse as a tick of the clock, in which it can change twice."""
    monkeypatch.setattr(identity, "SETTLED_SECONDS", 3600.0)
    of(folder)
    assert not (folder.parent / "cache" / "hashes").exists()


def test_code_in_the_folder_counts(folder):
    first = of(folder)
    (folder / "parts").mkdir()
    code = folder / "parts" / "modeling_own.py"
    code.write_text("SCALE = 1\n")
    second = of(folder)
    code.write_text("SCALE = 2\n")
    assert len({first, second, of(folder)}) == 3


def test_code_from_the_hub_counts(folder, tmp_path):
    """The model's class is in a repository that transformers fetched, whose commit the weights' does not name."""
    path = tmp_path / "fetched" / "modeling_own.py"
    path.parent.mkdir()
    found = []
    for scale in (1, 2):
        path.write_text(f"from torch import nn\nclass Own(nn.Module):\n    scale = {scale}\n")
        spec = importlib.util.spec_from_file_location("transformers_modules.own", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        model = module.Own()
        model.config = build_model().config
        model.config._commit_hash = "0123"
        found.append(hash_of_source(model, "someone/own", tmp_path / "cache"))
    del sys.modules[spec.name]
    assert all(f.startswith("someone/own@0123+") for f in found)
    assert found[0] != found[1]


class Scaled(nn.Module):
    def forward(self, x):
        return x


def test_a_model_in_memory_is_known_by_weights_config_and_code(monkeypatch):
    plain = hash_of_weights(build_model())
    assert plain == hash_of_weights(build_model())
    theta = {"rope_type": "default", "rope_theta": 500.0}
    own = build_model()
    own.model.layers[0].mlp.act_fn = Scaled()
    first = hash_of_weights(own)
    monkeypatch.setattr(identity.inspect, "getsource", lambda kind: "other code")
    assert len({plain, hash_of_weights(build_model(rope_parameters=theta)), first, hash_of_weights(own)}) == 4


def changed_environments(monkeypatch):
    """Yield (name of a part, a model) with just that part changed."""
    yield "attention", build_model(attn_implementation="eager")
    model = build_model()
    model.config._experts_implementation = "batched_mm"
    yield "experts", model
    with monkeypatch.context() as patch:
        patch.setattr(identity, "multiplies_in_float32", lambda *_: True)
        yield "products", build_model()
    with monkeypatch.context() as patch:
        patch.setattr(identity.torch, "__version__", "9.9")
        yield "torch", build_model()
    with monkeypatch.context() as patch:
        patch.setattr(identity.metadata, "version", lambda name: "9.9")
        yield "transformers", build_model()
    with monkeypatch.context() as patch:
        patch.setattr(identity, "VERSION", 9)
        yield "numerics", build_model()


def test_each_part_of_the_environment_changes_the_key(monkeypatch):
    plain = environment_key(build_model())
    keys = [content_key(**plain)]
    for part, model in changed_environments(monkeypatch):
        found = environment_key(model)
        assert {name for name in plain if found[name] != plain[name]} == {part}
        keys.append(content_key(**found))
    found = environment_key(build_model().to("meta"))
    assert found["device"] == "meta"
    keys.append(content_key(**found))
    assert len(set(keys)) == len(plain) + 1 == len(keys)


@pytest.mark.parametrize("part", environment_key(build_model()))
def test_reference_outputs_of_another_environment_are_computed_anew(part, toy, items, tmp_path, monkeypatch):
    from innerpo.model import reference

    def run():
        request = StateRequest((1,))
        return compute_reference(toy, items, "one_row", request, batch_size=4, cache_dir=tmp_path, what="toy")

    assert run().computed
    assert not run().computed
    found = environment_key(toy.model) | {part: "another"}
    monkeypatch.setattr(reference, "environment_key", lambda model: found)
    assert run().computed
