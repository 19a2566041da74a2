"""Hostile and damaged checkpoints fail with one line and run no code."""

import json
import pickle
import struct
import sys
import zipfile

import pytest
import torch
from hostile import (
    BAD_LAYOUTS,
    DATA,
    FACES,
    HEADERS,
    LATENT,
    LENGTHS,
    PICKLED,
    PLACES,
    TENSORS,
    TEXTS,
    PickledCommand,
    lightning_checkpoint,
    make_calls,
    make_dcgan,
    make_models,
    write_checkpoint,
)
from safetensors.torch import save

from dcgan_inpaint.data.sources import resolve_source
from dcgan_inpaint.models.checkpoint import load_model, save_weights


def refused(path):
    """Return the one-line error of loading a checkpoint; its directory must not change."""
    before = {p: p.stat().st_mtime_ns for p in path.parent.rglob("*")}
    with pytest.raises(ValueError) as error:
        model = load_model(path)
        resolve_source(None, model.data, model.image_shape, str(path))
    assert {p: p.stat().st_mtime_ns for p in path.parent.rglob("*")} == before
    line = str(error.value)
    assert line.startswith(f"ckpt={path}") and "\n" not in line and len(line) < 500
    return line.removeprefix(f"ckpt={path}")


both = pytest.mark.parametrize("form", ["weights.ckpt", "weights.safetensors"])


# --- the description of the data ---


@both
@pytest.mark.parametrize("name", ["copyfile", "touch", "open", "hub", "savetxt"])
@pytest.mark.parametrize("place", PLACES)
def test_calls_in_the_data_description_are_not_run(form, name, place, tmp_path):
    call = make_calls(tmp_path / "marker")[name]
    assert "data" in refused(write_checkpoint(tmp_path / form, data=PLACES[place](call)))
    assert not (tmp_path / "marker").exists()


@both
@pytest.mark.parametrize("case", DATA)
def test_invalid_data_description_is_rejected(form, case, tmp_path):
    data, message = DATA[case]
    assert message in refused(write_checkpoint(tmp_path / form, data=data))


# --- settings and the rest of the header ---


@both
@pytest.mark.parametrize("case", HEADERS)
def test_invalid_header_is_rejected(form, case, tmp_path):
    header, message = HEADERS[case]
    assert message in refused(write_checkpoint(tmp_path / form, **header))


@both
@pytest.mark.parametrize("case", LATENT)
def test_invalid_gan_of_a_latent_encoder_is_rejected(form, case, tmp_path):
    settings, message = LATENT[case]
    assert message in refused(
        write_checkpoint(tmp_path / form, make_models()[2], settings=settings)
    )


@pytest.mark.parametrize(("header", "message"), TEXTS)
def test_invalid_json_header_is_rejected(header, message, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save({"w": torch.zeros(2)}, {"dcgan_inpaint": header}))
    assert message in refused(path)


# --- the tensors ---


@both
@pytest.mark.parametrize("case", TENSORS)
def test_invalid_tensor_is_rejected(form, case, tmp_path):
    tensors, message = TENSORS[case]
    assert message in refused(write_checkpoint(tmp_path / form, tensors=tensors))


@pytest.mark.parametrize("case", PICKLED)
def test_invalid_pickled_tensor_is_rejected(case, tmp_path):
    tensors, message = PICKLED[case]
    assert message in refused(write_checkpoint(tmp_path / "weights.ckpt", tensors=tensors))


def test_truncated_storage_is_rejected(tmp_path):
    """The archive holds less of a tensor than the pickle claims."""
    complete, path = write_checkpoint(tmp_path / "complete.ckpt"), tmp_path / "weights.ckpt"
    with zipfile.ZipFile(complete) as source, zipfile.ZipFile(path, "w") as target:
        records = source.infolist()
        last = max(records, key=lambda record: record.file_size)
        for record in sorted(records, key=lambda record: record is last):
            data = source.read(record)
            target.writestr(record.filename, data[:4] if record is last else data)
    refused(path)


# --- the file ---


@pytest.mark.parametrize("place", ["state_dict", "hyper_parameters", "callbacks", "data"])
def test_code_in_a_pickle_is_not_run(place, tmp_path):
    path, marker = tmp_path / "weights.ckpt", tmp_path / "marker"
    torch.save(lightning_checkpoint(make_dcgan()) | {place: {"x": PickledCommand(marker)}}, path)
    assert "(contains more than tensors and plain values)" in refused(path)
    path.write_bytes(pickle.dumps(PickledCommand(marker)))  # without an archive around it
    assert "neither a safetensors file nor a file of torch.save" in refused(path)
    assert not marker.exists()


@both
@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.99])
def test_truncated_file_is_rejected(form, share, tmp_path):
    path = write_checkpoint(tmp_path / form)
    complete = path.read_bytes()
    path.write_bytes(complete[: int(share * len(complete))])
    assert "truncated, or not a" in refused(path)


@both
def test_flipped_bit_is_rejected_or_has_no_effect(form, tmp_path):
    model, path = make_dcgan(), tmp_path / form
    model.data = FACES
    if path.suffix == ".ckpt":
        torch.save(lightning_checkpoint(model), path)
    else:
        save_weights(model, path)
    data, state, accepted = path.read_bytes(), model.state_dict(), 0
    places = [*range(0, 2000, 61), *range(2000, len(data), len(data) // 50)]
    for place in [*places, *range(len(data) - 2000, len(data), 61)]:
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            loaded = load_model(path)
        except ValueError as error:
            assert str(error).startswith(f"ckpt={path}") and "\n" not in str(error)
            continue
        accepted += 1  # for example in the time stamp of a part of the archive
        assert dict(loaded.hparams) == dict(model.hparams), place
        assert all(torch.equal(v, state[k]) for k, v in loaded.state_dict().items()), place
    assert accepted < len(places) / 2


@pytest.mark.parametrize("change", [{"hyper_parameters": {"hidden": 3}}, {"state_dict": None}, {}])
def test_foreign_file_is_rejected(change, tmp_path):
    path = tmp_path / "weights.ckpt"
    torch.save(
        lightning_checkpoint(make_dcgan()) | change if change else {"layer": torch.zeros(2)}, path
    )
    refused(path)
    path.write_text("not a checkpoint at all")
    assert "neither a safetensors file nor a file of torch.save" in refused(path)
    torch.save([1, 2], path)
    assert "truncated, or not a" in refused(path)


def test_compressed_archive_is_rejected(tmp_path):
    """torch does not compress; a compressed record may unpack to any size."""
    complete, path = write_checkpoint(tmp_path / "complete.ckpt"), tmp_path / "weights.ckpt"
    with (
        zipfile.ZipFile(complete) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    assert "compressed" in refused(path)


@pytest.mark.parametrize("header", BAD_LAYOUTS)
def test_invalid_safetensors_layout_is_rejected(header, tmp_path):
    path, text = tmp_path / "weights.safetensors", json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    assert "truncated, or not a" in refused(path)


@pytest.mark.parametrize("length", LENGTHS)
def test_invalid_safetensors_length_is_rejected(length, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"w": 1}')
    assert "truncated, or not a" in refused(path)


def test_deeply_nested_safetensors_header_is_rejected(tmp_path):
    path, depth = tmp_path / "weights.safetensors", 50 * sys.getrecursionlimit()
    text = b'{"w": ' + b"[" * depth + b"]" * depth + b"}"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    assert "truncated, or not a" in refused(path)
