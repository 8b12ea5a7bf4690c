"""The files of deploy/ are valid for the programs that read them, as far as these can be asked here."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from tests.pipeline.conftest import ROOT

DEPLOY = ROOT / "deploy"


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def test_ray_up_accepts_the_cluster() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    content = read("cluster.yaml")
    jsonschema.validate(content, schema)
    assert content["head_node_type"] in content["available_node_types"]
    content["worker_types"] = {}
    with pytest.raises(jsonschema.ValidationError, match="worker_types"):  # so the schema does refuse
        jsonschema.validate(content, schema)


def test_the_job_on_kubernetes_names_the_locked_version_of_ray() -> None:
    (locked,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert read("rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == locked


@pytest.mark.parametrize("name", ["rayjob.yaml", "mlflow.yaml"])
def test_every_volume_that_a_container_mounts_is_one_of_its_pod(name: str) -> None:
    """A mount without its volume is refused by Kubernetes only when the pod starts."""

    def pods(content: Any) -> Any:
        if isinstance(content, dict):
            if "containers" in content:
                yield content
            content = list(content.values())
        if isinstance(content, list):
            for part in content:
                yield from pods(part)

    found = list(pods(list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))))
    assert found
    for pod in found:
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        mounted = {mount["name"] for part in pod["containers"] for mount in part.get("volumeMounts", [])}
        assert mounted <= volumes
