"""The alert rules and dashboards of `deploy/monitoring`, as data."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"


def read_yaml(name: str) -> Any:
    return yaml.safe_load((MONITORING / name).read_text())


def alert_rules() -> dict[str, dict[str, Any]]:
    """Return the alert rules by name, in their order."""
    return {rule["alert"]: rule for group in read_yaml("alerts.yml")["groups"] for rule in group["rules"]}


def dashboards() -> Iterator[dict[str, Any]]:
    for path in sorted((MONITORING / "dashboards").glob("*.json")):
        yield json.loads(path.read_text())


def scrape_jobs() -> set[str]:
    """Return the names of the jobs in the example of a Prometheus configuration."""
    return {job["job_name"] for job in read_yaml("prometheus.yml")["scrape_configs"]}


def expressions() -> dict[str, promql_parser.Expr]:
    """Return the parsed expression of each rule, panel and annotation, by a name for it."""
    texts = {name: rule["expr"] for name, rule in alert_rules().items()}
    for dashboard in dashboards():
        for panel in dashboard["panels"]:
            texts |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel.get("targets", ())}
        texts |= {f"annotation {entry['name']}": entry["expr"] for entry in dashboard["annotations"]["list"]}
    return {name: promql_parser.parse(text.replace("$__rate_interval", "5m")) for name, text in texts.items()}


def selectors(expression: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    """Return the series that an expression selects."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(expression, visit)
    return found


def matches(matcher: promql_parser.Matcher, labels: dict[str, str]) -> bool:
    """Return whether a series with these labels passes a matcher of a selector."""
    op, value = matcher.op, labels.get(matcher.name, "")
    if op == promql_parser.MatchOp.Equal:
        return value == matcher.value
    if op == promql_parser.MatchOp.NotEqual:
        return value != matcher.value
    found = re.fullmatch(matcher.value, value) is not None
    return found if op == promql_parser.MatchOp.Re else not found
