"""The pod that Airflow's operator really asks for: nothing of the manifest may get lost on the way."""

from __future__ import annotations

from types import SimpleNamespace

from kubernetes.client import ApiClient

from bigtcp_bench.plan import load_plan
from bigtcp_bench.pods.generation import Generation, client_pod, orders_of
from bigtcp_bench.pods.operators import IperfGenerationOperator


def test_the_client_pod_keeps_everything_of_its_manifest() -> None:
    plan = load_plan("quick", {"image": "registry.example/netshoot:v1", "image_pull_secrets": ["pull-me"]})
    generation = Generation(
        run=1,
        run_key="dag/run",
        block=1,
        arm="off",
        generation=1,
        arm_generation=0,
        client_node="node1",
        server_node="node2",
    )
    wanted = client_pod(generation, plan, orders_of(generation, plan, {"ipv4": "10.0.0.1"}))
    operator = IperfGenerationOperator(task_id="baseline_iperf3", generation=generation.model_dump(mode="json"))
    operator.pod_template_dict = wanted
    # It only says in a label where Airflow runs.
    operator.__dict__["hook"] = SimpleNamespace(is_in_cluster=False)
    asked = ApiClient().sanitize_for_serialization(operator.build_pod_request_obj(None))
    for name, value in wanted["spec"].items():
        if name != "containers":
            assert asked["spec"][name] == value, name
    (container,), (wanted_container,) = asked["spec"]["containers"], wanted["spec"]["containers"]
    for name, value in wanted_container.items():
        assert container[name] == value, name
    assert asked["spec"]["imagePullSecrets"] == [{"name": "pull-me"}]
    assert wanted["metadata"]["labels"].items() <= asked["metadata"]["labels"].items()
    assert asked["metadata"]["namespace"] == "bigtcp-bench"
