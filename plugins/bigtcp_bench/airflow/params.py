"""The form of the Airflow UI: one param per field of the plan, with the limits that the plan itself has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Param
from annotated_types import Ge, Le

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.planning.plan import SCENARIOS, Plan, load_plan, plan_names

#: Offered in the form; a plan file may hold any other valid order.
ORDERS = (
    "off,on,off,on,off",
    "on,off,on,off,on",
    "off,on,off,on,off,on",
    "off,on,off",
    "on,off,on",
    "off,on",
    "off,off",
    "on,on",
)

#: In lists of the form, which have no empty choice.
AS_PLANNED = "as the plan says"

#: What of a plan whoever triggers a run may choose: how much is measured, and on which two nodes.
PLAN_FIELDS = (
    *("scenarios", "order", "generations", "repetitions", "duration_s", "omit_s", "rate_bps"),
    *("client_node", "server_node"),
)

_NODE_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"


def dag_params() -> dict[str, Param]:
    """Return the params of the benchmark DAG. Everything but the plan defaults to "as the plan says"."""
    return {
        "plan": Param(
            "nightly",
            type="string",
            enum=plan_names(),
            title="Plan",
            description_md="What to measure. " + " ".join(map(_description, plan_names())),
        ),
        "scenarios": Param(
            None,
            type=["null", "array"],
            items={"type": "string", "enum": list(SCENARIOS)},
            uniqueItems=True,
            examples=list(SCENARIOS),
            title="Scenarios",
            description_md="Empty: the plan's. `rr` is request/response, `rate` a stream of fixed rate.",
        ),
        "order": Param(
            AS_PLANNED,
            type="string",
            enum=[AS_PLANNED, *ORDERS],
            title="Order of blocks",
            description_md="`off,on,off` cannot tell a change of a few per cent from a drift that bends, so its "
            "intervals are wide: use five blocks. `off,off` and `on,on` are A/A runs, which measure the noise.",
        ),
        "generations": _integer("generations", "Generations per outer block"),
        "repetitions": _integer("repetitions", "Repetitions per generation"),
        "duration_s": _integer("duration_s", "Seconds measured per repetition"),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description_md="Only print what a run would create, change and delete; nothing is done or stored.",
        ),
        "note": Param(
            None,
            type=["null", "string"],
            maxLength=500,
            title="Note",
            description_md=(
                "Why this run was started, for example *after the upgrade to Cilium 1.18.4*. It stands wherever "
                "the run is told. A run with a note says at its top how it compares with an earlier one: where "
                "the note speaks of Cilium, with the last one of another Cilium, else with the run before."
            ),
        ),
        "night": Param(
            False,
            type="boolean",
            title="Count as a night",
            description_md="For a scheduler outside of Airflow: other runs by hand are compared with the last "
            "one, and confirm nothing.",
        ),
        "client_node": _node("client_node", "Client node"),
        "server_node": _node("server_node", "Server node"),
        "omit_s": _integer("omit_s", "Seconds left out before each repetition", section="Details"),
        "rate_bps": _integer("rate_bps", "Bit/s of the fixed-rate scenarios", section="Details"),
    }


def plan_of_params(params: Mapping[str, Any], conn_id: str = "") -> Plan:
    """Return the plan that ``params`` of a DAG run ask for, on the cluster of ``conn_id``.

    ``params`` may be whatever a trigger's conf held. Raises InvalidInput, with one sentence, for what is no field
    of the form: image, scope and guardian are an administrator's to say, in the plan file.
    """
    plan = params.get("plan")
    if plan not in plan_names():
        raise InvalidInput(
            f"param plan = {plan!r:.80}: must be the name of a plan, one of {', '.join(plan_names())}"
        )
    refuse_unknown(params, tuple(dag_params()))
    given = {name: params.get(name) for name in PLAN_FIELDS}
    overrides = {name: None if value == AS_PLANNED else value for name, value in given.items()}
    overrides["scenarios"] = overrides["scenarios"] or None
    return load_plan(str(plan), overrides, conn_id)


def refuse_unknown(params: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Raise InvalidInput for a param that is not ``allowed``: Airflow adds every name of a trigger's conf."""
    for name in params:
        if name not in allowed:
            raise InvalidInput(
                f"param {name!r:.80}: is no field of this DAG's form; allowed are {', '.join(allowed)}"
            )


def _description(name: str) -> str:
    """Return what a plan is for, in its own words."""
    try:
        text = load_plan(name).description.rstrip(".")
    except InvalidInput:
        # A run with it says what is wrong; the form and all other plans stay usable.
        text = "cannot be used"
    return f"**{name}**: {text}."


def _integer(name: str, title: str, section: str | None = None) -> Param:
    field = Plan.model_fields[name]
    (low,) = [limit.ge for limit in field.metadata if isinstance(limit, Ge)]
    (high,) = [limit.le for limit in field.metadata if isinstance(limit, Le)]
    return Param(
        None,
        type=["null", "integer"],
        minimum=low,
        maximum=high,
        title=title,
        description_md=f"{(field.description or title).capitalize()}, {low} to {high}. Empty: the plan's.",
        **_in_section(section),
    )


def _node(name: str, title: str) -> Param:
    return Param(
        None,
        type=["null", "string"],
        pattern=_NODE_NAME,
        title=title,
        section="Placement",
        description_md=f"{(Plan.model_fields[name].description or title).capitalize()}. Both, or neither.",
    )


def _in_section(section: str | None) -> dict[str, Any]:
    # Not section=None: the form would take that for the name of a section.
    return {"section": section} if section else {}
