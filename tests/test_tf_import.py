"""Reading and importing TensorFlow checkpoints, written by these tests and by TensorFlow."""

import itertools
import re
import shlex
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_golden import GOLDEN, complete, images_of

from dcgan_inpaint.models.checkpoint import load_gan
from dcgan_inpaint.tf_import.__main__ import main
from dcgan_inpaint.tf_import.bundle import MAGIC, find_bundle, masked_crc32c, read_bundle
from dcgan_inpaint.tf_import.convert import import_dcgan, infer_sizes, state_from_tensorflow

REAL = Path(__file__).parents[2] / "shared" / "golden"  # checkpoints that TensorFlow wrote
FOLDERS = {"blog": "blog_gf8_64px", "head": "head_gf8_32px"}
SIZES = {
    "blog": {"image_size": 64, "widths": "blog"},
    "head": {"image_size": 32, "widths": "amos_head"},
}
COMMON = {"channels": 3, "z_dim": 16, "gf_dim": 8, "df_dim": 8}
DTYPE_NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "bool": 10}

needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="no checkpoints written by TensorFlow available"
)
both = pytest.mark.parametrize("name", FOLDERS)


# --- a minimal writer of the format ---

CRC_TABLE = []
for crc in range(256):
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    CRC_TABLE.append(crc)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def varint(number):
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


def field(number, value):
    """Encode a protobuf field: ints as varints, bytes with their length, zeros omitted."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""


def block(pairs, restart_every=16, compression=0):
    """Encode a table block with its trailer; every restart_every-th key is complete."""
    body, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(pairs):
        shared = 0
        if i % restart_every == 0:
            restarts.append(len(body))
        else:
            same = itertools.takewhile(lambda ab: ab[0] == ab[1], zip(last, key, strict=False))
            shared = len(list(same))
        body += varint(shared) + varint(len(key) - shared) + varint(len(value))
        body, last = body + key[shared:] + value, key
    restarts = restarts or [0]
    body += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts)) + bytes([compression])
    return body + masked(body)


def write_bundle(folder, variables, shards=1, compression=0, endianness=0, name="DCGAN.model-6"):
    """Write a bundle, variables assigned to the shards in turn, and the file `checkpoint`."""
    data = [b""] * shards
    header = field(1, shards) + field(2, endianness)
    pairs = [(b"", header)]
    for i, (key, value) in enumerate(sorted(variables.items())):
        raw = value.tobytes()
        shape = b"".join(field(2, field(1, size)) for size in value.shape)
        entry = field(1, DTYPE_NUMBERS[str(value.dtype)]) + field(2, shape) + field(3, i % shards)
        entry += field(4, len(data[i % shards])) + field(5, len(raw))
        pairs.append((key.encode(), entry + varint(6 << 3 | 5) + masked(raw)))
        data[i % shards] += raw
    index, places = b"", []
    for start in range(0, len(pairs), 20):  # several blocks
        part = block(pairs[start : start + 20], compression=compression)
        places.append((pairs[min(start + 19, len(pairs) - 1)][0], (len(index), len(part) - 5)))
        index += part
    footer = b""
    for part in (block([]), block([(key, varint(a) + varint(b)) for key, (a, b) in places], 1)):
        footer += varint(len(index)) + varint(len(part) - 5)
        index += part
    prefix = folder / name
    Path(f"{prefix}.index").write_bytes(index + footer.ljust(40, b"\0") + MAGIC)
    for i, part in enumerate(data):
        Path(f"{prefix}.data-{i:05d}-of-{shards:05d}").write_bytes(part)
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "/trained/elsewhere/{name}"\n')
    return prefix


def weights(golden):
    return {k.removeprefix("after6/"): v for k, v in golden.items() if k.startswith("after6/")}


@pytest.fixture(scope="module")
def goldens():
    return {name: dict(np.load(GOLDEN / f"{name}.npz")) for name in FOLDERS}


# --- the reader ---


def test_crc32c_matches_the_published_values():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    for length in (*range(20), 1001):
        data = np.random.default_rng(length).bytes(length)
        assert masked_crc32c(data) == struct.unpack("<I", masked(data))[0]


@pytest.mark.parametrize("shards", [1, 3])
def test_written_bundle_is_read_back(tmp_path, shards):
    """All dtypes and ranks, keys that share prefixes, several blocks and shards."""
    draw = np.random.default_rng(0)
    written = {
        f"generator/g_h{i}/{leaf}": draw.normal(size=(i + 1, 3)).astype("float32")
        for i in range(12)
        for leaf in ("biases", "biases/Adam", "w")
    }
    written |= {
        "global_step": np.array(2**40, "int64"),
        "epoch": np.array(-3, "int32"),
        "double": draw.normal(size=(2, 1, 4, 2)),
        "empty": np.zeros((0, 5), "float32"),
    }
    prefix = write_bundle(tmp_path, written | {"flag": np.array([True])}, shards)
    for path in (prefix, tmp_path, f"{prefix}.index"):
        read = read_bundle(find_bundle(path))
        assert read.keys() == written.keys()  # a bool is left out
        for name, value in written.items():
            assert read[name].dtype == value.dtype
            np.testing.assert_array_equal(read[name], value)


@needs_real
@both
def test_bundle_of_tensorflow_is_read(goldens, name):
    read = read_bundle(find_bundle(REAL / FOLDERS[name] / "tf_checkpoint"))
    for key, value in weights(goldens[name]).items():
        np.testing.assert_array_equal(read[key], value)
    assert any(key.endswith("/Adam_1") for key in read)


# --- the import ---


@both
@pytest.mark.parametrize("source", ["written", pytest.param("real", marks=needs_real)])
def test_imported_networks_and_search_match_the_original(
    tmp_path, goldens, name, source, monkeypatch, capsys
):
    """From the command to completion: G, D and the search are the original's."""
    golden = goldens[name]
    if source == "written":
        folder = tmp_path
        write_bundle(folder, weights(golden))
    else:
        folder = REAL / FOLDERS[name] / "tf_checkpoint"
    out = tmp_path / "new folder" / "out.safetensors"
    monkeypatch.setattr(sys, "argv", ["tf_import", str(folder), str(out)])
    main()
    found, command = capsys.readouterr().out.splitlines()
    size, widths = SIZES[name].values()
    assert found == (
        f"{size} px, 3 channels, z_dim 16, gf_dim 8, df_dim 8, widths {widths} -> {out}"
    )
    assert shlex.split(command) == ["python", "inpaint.py", f"ckpt={out}", "images=photo.jpg"]

    model = load_gan(out).eval()
    assert model.hparams["crop"] == 108 / 178
    assert model.hparams["prior"] == "uniform"
    with torch.no_grad():
        fake = images_of(golden["eval/G"])
        for ema in (True, False):
            ours = model(torch.from_numpy(golden["eval/z"]), ema=ema)
            torch.testing.assert_close(ours, fake, rtol=0, atol=1e-5)
        for images, logits in ((images_of(golden["x"]), "real"), (fake, "fake")):
            expected = torch.from_numpy(golden[f"eval/{logits}_logits"])[:, 0]
            torch.testing.assert_close(model.discriminator(images), expected, rtol=0, atol=1e-5)
    _, done = complete(model, golden, "center", ema=True)
    z20 = torch.from_numpy(golden["complete/center/z20"])
    torch.testing.assert_close(done.z, z20, rtol=0, atol=1e-4)


@both
def test_sizes_are_inferred_from_shapes(goldens, name):
    assert infer_sizes(weights(goldens[name])) == COMMON | SIZES[name]


@pytest.mark.parametrize(("gf_dim", "df_dim"), [(8, 4), (6, 8)])
def test_sizes_of_g_and_d_are_independent(gf_dim, df_dim):
    """Other widths for G and D, one channel, 128 px: only shapes matter."""
    maps = [8 * gf_dim, 4 * gf_dim, 2 * gf_dim, gf_dim, gf_dim // 2, 1]
    variables = {"g_h0_lin/Matrix": (7, 16 * maps[0])}
    for i in range(1, 6):
        variables[f"g_h{i}/w"] = (5, 5, maps[i], maps[i - 1])
    variables |= {"d_h0_conv/w": (5, 5, 1, df_dim), "d_h3_lin/Matrix": (8 * df_dim * 64, 1)}
    sizes = infer_sizes({k: np.empty(v, "float32") for k, v in variables.items()})
    assert sizes == {
        "image_size": 128,
        "channels": 1,
        "z_dim": 7,
        "gf_dim": gf_dim,
        "df_dim": df_dim,
        "widths": "blog",
    }


def older(variables):
    """Rename variables as before commit 61c129b, without scopes."""
    new = {}
    for name, value in variables.items():
        name = name.split("/", 1)[1].replace("d_h4_lin", "d_h3_lin")
        name = re.sub(r"d_bn(\d)", lambda match: f"d_bn{int(match[1]) + 1}", name)
        new[name] = value
    return new


def test_older_variable_names_are_supported(goldens):
    variables = weights(goldens["blog"])
    ours, same = state_from_tensorflow(older(variables)), state_from_tensorflow(variables)
    assert ours.keys() == same.keys()
    assert all(torch.equal(ours[key], same[key]) for key in same)
    assert infer_sizes(older(variables)) == infer_sizes(variables)


# --- errors ---


def damage(file, change):
    file.write_bytes(change(file.read_bytes()))


def fails(path, monkeypatch, *options):
    """Return the one-line error of the command."""
    out = Path(path).parent / "out.safetensors"
    monkeypatch.setattr(sys, "argv", ["tf_import", str(path), str(out), *options])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not out.exists()
    line = str(stop.value)
    assert line.startswith("error: ") and "\n" not in line
    return line


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "index",
            lambda raw: raw[:-1],
            "truncated, or not a tensor bundle (the footer is missing)",
        ),
        ("index", lambda raw: raw[100:], "truncated, or not a tensor bundle"),
        ("index", lambda raw: b"", "truncated, or not a tensor bundle"),
        ("index", lambda raw: MAGIC, "truncated, or not a tensor bundle"),
        ("index", lambda raw: raw[:9] + b"?" + raw[10:], "wrong checksum of a block"),
        ("data-00000-of-00001", lambda raw: raw[:-1], "truncated, "),
        ("data-00000-of-00001", lambda raw: b"?" + raw[1:], "damaged, "),
    ],
)
def test_damaged_file_is_rejected(tmp_path, monkeypatch, file, change, message):
    prefix = write_bundle(tmp_path, {"generator/g_h0_lin/Matrix": np.ones((16, 64), "float32")})
    damage(Path(f"{prefix}.{file}"), change)
    line = fails(tmp_path, monkeypatch)
    assert f"{prefix}.{file}" in line and message in line


def test_missing_file_is_reported(tmp_path, monkeypatch):
    assert "nowhere.index: no such file" in fails(tmp_path / "nowhere", monkeypatch)
    assert "no file named checkpoint" in fails(tmp_path, monkeypatch)
    (tmp_path / "checkpoint").write_text("nonsense")
    assert "names no checkpoint" in fails(tmp_path, monkeypatch)
    prefix = write_bundle(tmp_path, {"x": np.ones(3)}, shards=2)
    Path(f"{prefix}.data-00000-of-00002").unlink()
    assert "data-00000-of-00002: no such file" in fails(prefix, monkeypatch)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"compression": 1}, "compression 1"), ({"endianness": 1}, "big-endian")],
)
def test_unsupported_format_is_rejected(tmp_path, monkeypatch, options, message):
    write_bundle(tmp_path, {"x": np.ones(3)}, **options)
    assert message in fails(tmp_path, monkeypatch)


def without(pattern):
    return lambda variables: {k: v for k, v in variables.items() if not re.search(pattern, k)}


def with_shape(name, *shape):
    return lambda variables: variables | {name: np.zeros(shape, "float32")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda variables: {"x": np.ones(3)}, "variable g_h0_lin/Matrix is missing"),
        (without("moving_"), "variable g_bn0/moving_mean is missing: this older BatchNorm"),
        (without("d_h4_lin"), "the discriminator has 0 linear layers"),
        (without("g_h4"), "channels=8: should be 1 or 3"),
        (
            with_shape("discriminator/d_h2_lin/Matrix", 4, 4),
            "the discriminator has 2 linear layers",
        ),
        (with_shape("discriminator/d_h4_lin/Matrix", 256, 1), "not for the generator's 64 px"),
        (with_shape("discriminator/d_h0_conv/w", 5, 5, 1, 8), "not for the generator's 64 px"),
        (with_shape("generator/g_h2/w", 5, 5, 24, 32), "[64, 32, 24, 8, 3]"),
        (with_shape("generator/g_h2/w", 3, 3, 16, 32), "size mismatch for generator.deconvs.1"),
    ],
)
def test_another_network_is_rejected(tmp_path, monkeypatch, goldens, change, message):
    prefix = write_bundle(tmp_path, change(weights(goldens["blog"])))
    line = fails(tmp_path, monkeypatch)
    assert str(prefix) in line and message in line


def test_output_must_not_be_a_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tf_import", str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit, match="is a directory. Give the path of a file"):
        main()


def test_crop_is_validated_and_stored(tmp_path, monkeypatch, goldens):
    write_bundle(tmp_path, weights(goldens["blog"]))
    assert "crop=2.0: should be less" in fails(tmp_path, monkeypatch, "--crop", "2")
    assert import_dcgan(tmp_path, crop=1.0).hparams["crop"] == 1.0
