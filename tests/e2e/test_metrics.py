"""galernectl metrics, as Prometheus' own parser reads it."""
import os
import stat

from daemon import TINY
from galerne.v1 import inference_pb2 as pb
from prometheus_client.parser import text_string_to_metric_families
from test_galernectl import failed, run


def read(text: str) -> dict:
    """{name: {labels: value}}, of all samples; each family once."""
    families = list(text_string_to_metric_families(text))
    names = [f.name for f in families]
    assert len(set(names)) == len(names)
    assert all(f.documentation and f.type in ("gauge", "counter") for f in families)
    found = {}
    for family in families:
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {})
            found[sample.name][labels] = sample.value
    return found


def test_numbers_are_those_of_status(daemon):
    call = pb.GenerateRequest(model="tiny", text="hello", max_tokens=5, ignore_eos=True)
    assert len([t for m in daemon.inference().Generate(call, timeout=30) for t in m.tokens]) == 5
    daemon.wait_idle()
    done = run(daemon, "metrics")
    assert (done.returncode, done.stderr) == (0, "")
    found = read(done.stdout)
    assert found["galerne_up"] == {(): 1} and found["galerne_ready"] == {(): 1}
    for model in daemon.status().models:
        label = (("model", model.name.removeprefix("models/")),)
        assert found["galerne_model_serving"][label] == 1
        assert found["galerne_output_tokens_total"][label] == model.output_tokens_total
        assert found["galerne_prompt_tokens_total"][label] == model.prompt_tokens_total
        assert found["galerne_kv_blocks"][label] == model.kv_blocks_count
        assert found["galerne_model_weights_bytes"][label] == model.weights_bytes
    assert found["galerne_output_tokens_total"][(("model", "tiny"),)] >= 5


def test_tenants_and_quotas_have_labels(fresh):
    daemon = fresh(models={"tiny": TINY["tiny"]}, start=False)
    daemon.set_tenants("    - name: bank\n      tokens_per_minute: 100000\n")
    daemon.start()
    found = read(run(daemon, "metrics").stdout)
    assert found["galerne_tenant_weight"][(("model", "tiny"), ("tenant", "bank"))] == 1
    assert found["galerne_quota_tokens_left"][(("tenant", "bank"),)] == 100000


def test_a_file_is_replaced_in_one_go(daemon, tmp_path):
    path = tmp_path / "galerne.prom"
    path.write_text("old")
    before = path.stat().st_ino
    with open(path) as held:
        done = run(daemon, "metrics", "--write", str(path))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert held.read() == "old"
    assert path.stat().st_ino != before and stat.S_IMODE(path.stat().st_mode) == 0o644
    assert read(path.read_text())["galerne_up"] == {(): 1}
    assert os.listdir(tmp_path) == ["galerne.prom"]


def test_a_daemon_that_is_away_is_told(fresh, tmp_path):
    daemon = fresh(models={"tiny": TINY["tiny"]})
    path = tmp_path / "galerne.prom"
    assert run(daemon, "metrics", "--write", str(path)).returncode == 0
    daemon.stop()
    done = run(daemon, "metrics", "--write", str(path))
    assert done.returncode == 7 and done.stderr.startswith("galernectl: ")
    assert read(path.read_text()) == {"galerne_up": {(): 0}}
    done = run(daemon, "metrics")
    assert done.returncode == 7 and read(done.stdout) == {"galerne_up": {(): 0}}


def test_bad_use(daemon, tmp_path):
    path = tmp_path / "nowhere" / "galerne.prom"
    failed(run(daemon, "metrics", "--write", str(path)), 1, "cannot write beside", "a folder")
    failed(run(daemon, "metrics", "now"), 64, "expected no arguments")
    failed(run(daemon, "metrics", "--json"), 64, "galernectl status --json")
