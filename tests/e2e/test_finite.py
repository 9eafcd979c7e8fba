"""A number that is not finite ends the request that met it, is told to its client and counted."""
import json
import shutil
import struct
import subprocess

import grpc
import pytest
from daemon import ROOT, build_dir
from galerne.v1 import inference_pb2 as pb

TINY = ROOT / "tests/golden/tiny-llama"
POISON = 200


def poison(folder) -> None:
    """Finite weights that overflow for one token: a dimension that its embedding alone has meets
    huge weights in the first layer."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])

    def put(name: str, row: int, column: int, value: float) -> None:
        width = header[name]["shape"][1]
        begin = 8 + size + header[name]["data_offsets"][0]
        struct.pack_into("<f", data, begin + 4 * (row * width + column), value)

    for row in range(header["model.embed_tokens.weight"]["shape"][0]):
        put("model.embed_tokens.weight", row, 0, float(row == POISON))
    for name in header:
        if "o_proj" in name or "down_proj" in name:
            for column in range(header[name]["shape"][1]):
                put(name, 0, column, 0.0)
    put("model.layers.0.mlp.gate_proj.weight", 0, 0, 50.0)
    put("model.layers.0.mlp.up_proj.weight", 0, 0, 3e38)
    path.write_bytes(data)


def ask(daemon, ids: list) -> list:
    call = pb.GenerateRequest(model="tiny", token_ids=pb.TokenIds(ids=ids), max_tokens=8,
                              ignore_eos=True)
    return [t.id for m in daemon.inference().Generate(call, timeout=30) for t in m.tokens]


def table(daemon) -> str:
    command = [build_dir() / "admin/galernectl", "--socket", daemon.run_dir / "admin.sock",
               "status"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_fails_alone_and_is_counted(fresh, tmp_path):
    shutil.copytree(TINY, tmp_path / "model")
    poison(tmp_path / "model")
    daemon = fresh(models={"tiny": tmp_path / "model"})
    good = ask(daemon, [5, 6, 7])
    assert len(good) == 8
    assert "not finite" not in table(daemon)
    for n in (1, 2):
        with pytest.raises(grpc.RpcError) as failed:
            ask(daemon, [5, POISON, 7])
        assert failed.value.code() == grpc.StatusCode.INTERNAL
        said = failed.value.details()
        assert "model tiny: a number is not finite" in said and "position 3" in said
        status = daemon.model_status()
        assert (status.requests_not_finite_total, status.restarts_total) == (n, 0)
        assert f"ended by a number that is not finite (NaN or too large): {n}\n" in table(daemon)
    assert ask(daemon, [5, 6, 7]) == good
    daemon.log_has("ends: a number is not finite on the way to the token at position 3", 2)
