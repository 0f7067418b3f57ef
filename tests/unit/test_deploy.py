"""What `deploy/` describes, checked without a cluster: it renders, is confined, and fits the program."""

import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tallymarks.settings import Settings

ROOT = Path(__file__).parents[2]
BASE = ROOT / "deploy" / "kustomize" / "base"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = PROJECT["version"]
COMMANDS = set(PROJECT["scripts"])

COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()

USER = 10001
PORTS = {"api": 8080, "assessor": 8081, "segment-expiry": 8082, "calendar": 8083}
OURS = {*PORTS, "migrate"}

Manifest = dict[str, Any]


def variables_known() -> set[str]:
    prefix = Settings.model_config.get("env_prefix", "")
    return {f"{prefix}{name}".upper() for name in Settings.model_fields}


def kustomization() -> Manifest:
    loaded: Manifest = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def manifests() -> list[Manifest]:
    """The base as kubectl renders it; without kubectl, its resources as they are written."""
    kubectl = shutil.which("kubectl")
    if kubectl:
        rendered = subprocess.run([kubectl, "kustomize", BASE], check=True, capture_output=True, text=True).stdout
        return list(yaml.safe_load_all(rendered))
    return [m for name in kustomization()["resources"] for m in yaml.safe_load_all((BASE / name).read_text())]


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {m["metadata"]["name"]: m for m in manifests if m["kind"] == kind}


def deployment(manifests: list[Manifest], name: str) -> Manifest:
    return of_kind(manifests, "Deployment")[f"tallymarks-{name}"]


def pods(manifests: list[Manifest]) -> Iterator[Manifest]:
    for manifest in manifests:
        if manifest["kind"] in {"Deployment", "Job"}:
            yield manifest["spec"]["template"]


def only_container(pod: Manifest) -> Manifest:
    (container,) = pod["spec"]["containers"]
    found: Manifest = container
    return found


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def test_every_file_of_the_base_is_part_of_it_but_the_example_of_a_secret() -> None:
    files = {path.name for path in BASE.iterdir()} - {"kustomization.yaml", "secret.example.yaml"}
    assert files == set(kustomization()["resources"])


def test_the_base_has_a_deployment_per_service_and_a_migration(manifests: list[Manifest]) -> None:
    assert set(of_kind(manifests, "Deployment")) == {f"tallymarks-{name}" for name in PORTS}
    assert set(of_kind(manifests, "Service")) == {f"tallymarks-{name}" for name in PORTS}
    assert set(of_kind(manifests, "Job")) == {"tallymarks-migrate"}
    assert all("namespace" not in manifest["metadata"] for manifest in manifests)


@pytest.mark.parametrize("name", PORTS)
def test_a_deployment_runs_its_command_on_its_port(manifests: list[Manifest], name: str) -> None:
    container = only_container(deployment(manifests, name)["spec"]["template"])
    assert container["args"] == [f"tallymarks-{name}"]
    assert set(container["args"]) <= COMMANDS
    assert "command" not in container
    assert container["ports"] == [{"name": "http", "containerPort": PORTS[name]}]
    assert {"name": "TALLYMARKS_PORT", "value": str(PORTS[name])} in container["env"]


@pytest.mark.parametrize("name", PORTS)
def test_a_deployment_is_probed(manifests: list[Manifest], name: str) -> None:
    container = only_container(deployment(manifests, name)["spec"]["template"])
    paths = {
        probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {
        "startupProbe": "/health/live",
        "livenessProbe": "/health/live",
        "readinessProbe": "/health/ready",
    }
    assert all(container[probe]["httpGet"]["port"] == "http" for probe in paths)


@pytest.mark.parametrize("name", PORTS)
def test_a_deployment_is_given_time_to_finish(manifests: list[Manifest], name: str) -> None:
    assert deployment(manifests, name)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 30


def test_the_migration_runs_to_its_end(manifests: list[Manifest]) -> None:
    job = of_kind(manifests, "Job")["tallymarks-migrate"]
    assert only_container(job["spec"]["template"])["args"] == ["tallymarks", "migrate"]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_every_pod_is_confined(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        assert pod["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert only_container(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["spec"]["automountServiceAccountToken"] is False


def test_every_pod_says_what_it_needs(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        resources = only_container(pod)["resources"]
        assert {"cpu", "memory"} == set(resources["requests"]) == set(resources["limits"])


def test_no_pod_is_given_variables_named_after_services(manifests: list[Manifest]) -> None:
    """A Service `tallymarks` would set TALLYMARKS_PORT to an address, and the services would not start."""
    assert all(pod["spec"]["enableServiceLinks"] is False for pod in pods(manifests))


@pytest.mark.parametrize("name", PORTS)
def test_selectors_find_the_pods_of_one_service(manifests: list[Manifest], name: str) -> None:
    spec = deployment(manifests, name)["spec"]
    selectors = [
        spec["selector"]["matchLabels"],
        of_kind(manifests, "Service")[f"tallymarks-{name}"]["spec"]["selector"],
        *(
            spread["labelSelector"]["matchLabels"]
            for spread in spec["template"]["spec"].get("topologySpreadConstraints", [])
        ),
    ]
    if name == "api":
        budget = of_kind(manifests, "PodDisruptionBudget")["tallymarks-api"]
        selectors.append(budget["spec"]["selector"]["matchLabels"])
    for selector in selectors:
        chosen = [pod for pod in pods(manifests) if selector.items() <= pod["metadata"]["labels"].items()]
        assert chosen == [spec["template"]]


def test_what_pods_refer_to_is_there(manifests: list[Manifest]) -> None:
    example = yaml.safe_load((BASE / "secret.example.yaml").read_text())
    generated = {generator["name"] for generator in kustomization()["configMapGenerator"]}
    accounts = of_kind(manifests, "ServiceAccount")
    for pod in pods(manifests):
        assert pod["spec"]["serviceAccountName"] in accounts
        container = only_container(pod)
        for variable in container["env"]:
            if "valueFrom" in variable:
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference["name"] == example["metadata"]["name"]
                assert reference["key"] in example["stringData"]
        for source in container.get("envFrom", []):
            assert source["configMapRef"]["name"] in generated | set(of_kind(manifests, "ConfigMap"))


def test_the_base_sets_only_variables_that_the_settings_know(manifests: list[Manifest]) -> None:
    variables = {variable["name"] for pod in pods(manifests) for variable in only_container(pod)["env"]}
    for generator in kustomization()["configMapGenerator"]:
        variables |= {literal.partition("=")[0] for literal in generator["literals"]}
    assert variables <= variables_known()


# --- Docker -----------------------------------------------------------------------------------------------------------


def test_compose_starts_what_there_is() -> None:
    assert set(COMPOSE["services"]) == {"postgres", "rabbitmq", *OURS}
    assert COMPOSE["services"]["migrate"]["command"] == ["tallymarks", "migrate"]
    for name in PORTS:
        assert COMPOSE["services"][name]["command"] == [f"tallymarks-{name}"]


def test_compose_migrates_before_the_services_start() -> None:
    for name in PORTS:
        assert COMPOSE["services"][name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert COMPOSE["services"]["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_compose_publishes_only_the_api_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:${API_PORT:-8080}:8080"]}


def test_compose_asks_each_service_how_it_is() -> None:
    for name, port in PORTS.items():
        assert f"http://127.0.0.1:{port}/health/ready" in COMPOSE["services"][name]["healthcheck"]["test"][-1]
    assert all("healthcheck" in COMPOSE["services"][name] for name in ("postgres", "rabbitmq"))


def test_compose_confines_our_containers_and_gives_them_time_to_finish() -> None:
    for name in OURS:
        service = COMPOSE["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["stop_grace_period"] == "30s"


def test_compose_sets_only_variables_that_the_settings_know() -> None:
    for name in OURS:
        assert set(COMPOSE["services"][name]["environment"]) <= variables_known()


def test_the_image_runs_as_the_user_that_the_base_names_and_sets_only_known_variables() -> None:
    assert [line for line in DOCKERFILE if line.startswith("USER ")] == [f"USER {USER}:{USER}"]
    words = " ".join(line for line in DOCKERFILE if not line.startswith("#")).split()
    assert {word.partition("=")[0] for word in words if word.startswith("TALLYMARKS_")} <= variables_known()


def test_image_and_manifests_carry_the_version_of_the_project() -> None:
    assert f"ARG VERSION={VERSION}" in DOCKERFILE
    assert {COMPOSE["services"][name]["image"] for name in OURS} == {f"tallymarks:{VERSION}"}
    assert kustomization()["images"] == [{"name": "tallymarks", "newTag": VERSION}]
