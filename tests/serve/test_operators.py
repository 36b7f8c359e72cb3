"""What operators get: the page in a browser, the document's commands, alerts, dashboard, Dockerfile, OpenAPI document."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from helpers.checkpoints import ROOT
from helpers.service import CLIENT, Running, running
from jobonnx import Encoder
from jobonnx.search.index import Index

pytestmark = pytest.mark.medium
DEPLOY = ROOT / "deploy"
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
QUOTED = re.compile(r"jobonnx_[a-z_]+")


@pytest.mark.skipif(sys.platform == "win32", reason="the block is for a POSIX shell")
def test_the_documents_curl_lines_work(service: Running) -> None:
    found = re.search(r"<!-- curl -->\n```bash\n(.*?)```", (ROOT / "docs" / "service.md").read_text("utf-8"), re.DOTALL)
    assert found
    port = service.url.rsplit(":", 1)[1]
    lines = [line for line in found[1].splitlines() if line]
    assert len(lines) == 5
    for line in lines:
        done = subprocess.run(["bash", "-euc", line.replace("8080", port)], capture_output=True, text=True, check=True)
        content = json.loads(done.stdout)
        if "/match" not in line:  # its titles may still be being encoded
            assert "error" not in content, line


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize(("name", "size"), [("desktop", "1200,800"), ("phone", "390,844")])
def test_the_page_shows_matches_with_scores_and_times(tmp_path: Path, small: Encoder, name: str, size: str) -> None:
    titles = ["Krankenschwester", "nurse", "Pilot", "<b>Chef</b>", "Donaudampfschifffahrtsgesellschaftskapitänsanwärterin" * 2]
    with Index.create(tmp_path / "i", small.fingerprint, small.dimension) as index:
        index.add(titles, small.encode(titles), fingerprint=small.fingerprint, ids=[f"id-{number}" for number in range(5)])
    folder = Path(os.environ.get("JOBONNX_SCREENSHOTS", tmp_path))
    assert BROWSER is not None
    with running("--index", str(tmp_path / "i")) as service:
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}", "--virtual-time-budget=5000"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--hide-scrollbars", f"--screenshot={folder / name}.png"]
        command += ["--dump-dom", f"{service.url}/?title=nurse"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=120)
    items = re.findall(r"<li>(.*?)</li>", done.stdout)
    assert len(items) == 5, done.stdout[-2000:]
    assert "<span>nurse</span>" in items[0]
    assert "1.000" in items[0]
    assert "id-1" in items[0]
    assert "&lt;b&gt;Chef&lt;/b&gt;" in done.stdout, "a title is text, never markup"
    assert re.search(r"5 of 5 titles in \d+ ms, [\d.]+ ms of them in the service", done.stdout)


def test_the_alerts_and_the_dashboard_ask_for_metrics_that_there_are(service: Running) -> None:
    text = CLIENT.get(service.url + "/metrics").text
    there = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) | set(re.findall(r"^(\w+)", text, re.MULTILINE))
    # Series with labels that nothing has made yet are there as types alone, without their endings.
    there |= {f"{name}{ending}" for name in set(there) for ending in ("_total", "_bucket", "_sum", "_count")}
    for file in ("alerts.yml", "dashboard.json"):
        asked = set(QUOTED.findall((DEPLOY / file).read_text("utf-8")))
        assert len(asked) > 4
        assert asked <= there, f"{file}: {sorted(asked - there)}"


def test_the_dashboard_is_json_with_panels_that_do_not_overlap() -> None:
    panels = json.loads((DEPLOY / "dashboard.json").read_text("utf-8"))["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels) == len({panel["id"] for panel in panels})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here (Debian's package prometheus)")
def test_promtool_accepts_the_alerts_and_the_metrics(service: Running) -> None:
    subprocess.run(["promtool", "check", "rules", "--lint-fatal", str(DEPLOY / "alerts.yml")], check=True, capture_output=True)
    text = CLIENT.get(service.url + "/metrics").content
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert done.returncode in (0, 3), done.stderr  # 3: opinions about names
    assert b"error" not in done.stderr.lower()


@pytest.mark.network
@pytest.mark.skipif(sys.platform != "linux", reason="the image is Linux")
def test_the_dockerfiles_install_gives_a_service(tmp_path: Path) -> None:
    """Its RUN lines with an environment and a root of their own, then its ENTRYPOINT with its ENV, until a SIGTERM."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    install, user = re.findall(r"^RUN (.*)$", text, re.MULTILINE)
    venv.create(tmp_path / "venv", with_pip=True)
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env["PATH"] = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{env['PATH']}"
    subprocess.run(["bash", "-euc", install], check=True, cwd=ROOT, env=env)

    if os.geteuid() == 0 and shutil.which("useradd"):
        (tmp_path / "etc").mkdir()
        for name in ("passwd", "group", "shadow", "gshadow"):
            (tmp_path / "etc" / name).touch()
        subprocess.run(["bash", "-euc", user.replace("useradd ", f"useradd --prefix {tmp_path} ")], check=True, env=env)
        number = re.findall(r"^USER (.*)$", text, re.MULTILINE)[0]
        assert (tmp_path / "etc" / "passwd").read_text().startswith(f"jobonnx:x:{number}:")

    set_there = dict(pair.split("=", 1) for line in re.findall(r"^ENV (.*)$", text, re.MULTILINE) for pair in line.split())
    assert set_there.pop("JOBONNX_MODEL") == "/bundle"  # nothing is mounted there: the small model in its place
    entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[0])
    with subprocess.Popen(entry, env=env | set_there | {"JOBONNX_PORT": "0"}, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = next((line for line in process.stderr if b'"message":"ready"' in line), None)
        process.terminate()
        rest = process.stderr.read()
    assert said is not None
    assert process.returncode == 0
    assert b'"message":"stopped"' in rest


def test_the_dockerfile_and_kubernetes_set_options_that_there_are() -> None:
    from jobonnx.cli.serve import serve

    known = {parameter.envvar for parameter in serve.params}
    for file in ("Dockerfile", "kubernetes.yml"):
        asked = set(re.findall(r"JOBONNX_[A-Z_]+", (DEPLOY / file).read_text("utf-8")))
        assert asked
        assert asked <= known


@pytest.mark.network
def test_schemathesis_finds_no_failure_of_the_server(tmp_path: Path) -> None:
    """In an environment of its own; JOBONNX_SCHEMATHESIS names one that is there."""
    python = os.environ.get("JOBONNX_SCHEMATHESIS")
    if python is None:
        venv.create(tmp_path / "venv", with_pip=True)
        python = str(tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", "schemathesis"], check=True)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with running() as service:
        program = str(Path(python).with_name("schemathesis"))
        command = [program, "run", service.url + "/openapi.json", "--checks", "not_a_server_error", "--max-examples", "100"]
        done = subprocess.run([*command, "--seed", "1"], capture_output=True, encoding="utf-8", env=env, cwd=tmp_path, check=False)
        statuses = {line["status"] for line in service.logged("request")}
        assert service.status("/health") == 200
    assert not {status for status in statuses if status == 500}, done.stdout[-3000:]
    # 503 is an answer of its own: the built-in titles are being encoded.
    failures = re.findall(r"Server error", done.stdout)
    assert done.returncode == 0 or (failures and statuses & {503}), done.stdout[-3000:] + done.stderr[-2000:]
